"""Files of tokens: one object a line, padded as declared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_host.errors import ConfigError
from packhorse_host.evaluate.errors import DataError, DataMismatchError, LabelsError
from packhorse_host.evaluate.preprocessing import ImagePreprocessing, TokenPreprocessing
from packhorse_host.evaluate.read import read_calibration, read_evaluation
from packhorse_host.evaluate.samples import arrays_sha256

IDS = TensorSpec(name="input_ids", datatype="INT64", shape=(-1, -1))
MASK = TensorSpec(name="attention_mask", datatype="INT64", shape=(-1, -1))


def how(**changes: Any) -> TokenPreprocessing:
    return TokenPreprocessing.model_validate({"kind": "tokens", "length": 4} | changes)


def write(path: Path, *rows: Any) -> Path:
    file = path / "data.jsonl"
    file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return file


def row(*ids: int, **more: Any) -> dict[str, Any]:
    return {"input_ids": list(ids), "attention_mask": [1] * len(ids), **more}


def test_lists_are_filled_up_as_declared(tmp_path: Path) -> None:
    """Each input by its own number, 0 where none is named; other keys do not count."""
    path = write(tmp_path, row(7, 8, text="hello"), row(1, 2, 3, 4))
    samples = read_calibration(path, [IDS, MASK], how(padding={"input_ids": 9}))
    arrays = samples.take([0, 1]).arrays
    assert arrays["input_ids"].tolist() == [[7, 8, 9, 9], [1, 2, 3, 4]]
    assert arrays["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert samples.sha256 == arrays_sha256(arrays)


def test_lists_of_one_length_need_no_description(tmp_path: Path) -> None:
    samples = read_calibration(write(tmp_path, row(1, 2), row(3, 4)), [IDS, MASK])
    assert samples.take([1]).arrays["input_ids"].tolist() == [[3, 4]]


def test_floats_are_taken_too(tmp_path: Path) -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 2, 2))
    samples = read_calibration(write(tmp_path, {"x": [[1, 2.5], [3, 4]]}), [spec])
    assert samples.take([0]).arrays["x"].tolist() == [[[1, 2.5], [3, 4]]]


def test_truth_stands_on_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, row(1, labels=3, texts="a"), row(2, labels=0, texts="ß"))
    truth = read_evaluation(path, [IDS, MASK]).truth
    assert truth.arrays["labels"].tolist() == [3, 0]
    assert truth.arrays["texts"].tolist() == ["a", "ß"]


def test_ragged_lists_without_a_description(tmp_path: Path) -> None:
    path = write(tmp_path, row(1, 2), row(3))
    with pytest.raises(DataMismatchError, match=r"line 2: `attention_mask` has shape \[1\], \[2\] before"):
        read_calibration(path, [IDS, MASK])


def test_too_long_a_list(tmp_path: Path) -> None:
    path = write(tmp_path, row(1, 2, 3, 4, 5))
    with pytest.raises(DataMismatchError, match=r'5 values, 4 are declared; .*"truncate": true'):
        read_calibration(path, [IDS, MASK], how())
    samples = read_calibration(path, [IDS, MASK], how(truncate=True))
    assert samples.take([0]).arrays["input_ids"].tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([[1], [2, 3]], "ragged"),
        (["a"], "must be numbers of int64"),
        ([1.5], "must be numbers of int64"),
        ([True], "must be numbers of int64"),
        ([None], "must be numbers"),
        ([2**70], "must be numbers|cannot"),
        ({"a": 1}, "must be numbers"),
        (1, r"must be \[samples, any\], found \[1\]"),
    ],
)
def test_values_that_are_no_tokens(tmp_path: Path, value: Any, words: str) -> None:
    path = write(tmp_path, {"input_ids": value})
    with pytest.raises(DataMismatchError, match=words):
        read_calibration(path, [IDS])


def test_numbers_that_the_input_cannot_hold(tmp_path: Path) -> None:
    spec = TensorSpec(name="input_ids", datatype="UINT8", shape=(-1, -1))
    with pytest.raises(DataMismatchError, match="numbers that uint8 cannot"):
        read_calibration(write(tmp_path, {"input_ids": [1, 300]}), [spec])


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    """JSON has none, Python writes them all the same."""
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, -1))
    with pytest.raises(DataError, match="NaN or infinity in sample 1"):
        read_calibration(write(tmp_path, {"x": [1.0]}, {"x": [float("nan")]}), [spec])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not json", "line 2 is not JSON"),
        ("", "line 2 is not JSON"),
        ("[1, 2]", "line 2: an object is expected, found a list"),
        ('{"attention_mask": [1]}', "line 2: `input_ids` is missing"),
        ("[" * 100_000, "line 2 is not JSON"),
        ("\udcff", "line 2 is not JSON"),
    ],
)
def test_lines_that_are_none(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(f"{json.dumps(row(1))}\n{line}\n".encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=words):
        read_calibration(path, [IDS, MASK])


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it holds no sample"):
        read_calibration(write(tmp_path), [IDS])


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_calibration(tmp_path / "data.jsonl", [IDS])


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (row(1), "`labels` stands on 1 of 2 lines"),
        (row(1, labels="x"), "line 2: `labels` must be a whole number"),
        (row(1, labels=True), "must be a whole number"),
        (row(1, labels=1.0), "must be a whole number"),
    ],
)
def test_truth_that_is_none(tmp_path: Path, second: dict[str, Any], words: str) -> None:
    with pytest.raises(LabelsError, match=words):
        read_evaluation(write(tmp_path, row(1, labels=0), second), [IDS, MASK])


def test_a_description_of_images(tmp_path: Path) -> None:
    declared = ImagePreprocessing(layout="NCHW", channels=("gray",), height_px=1, width_px=1)
    with pytest.raises(ConfigError, match="of kind `tokens`"):
        read_calibration(write(tmp_path, row(1)), [IDS, MASK], declared)
