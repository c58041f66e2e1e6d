"""Archives of arrays: read row by row, and nothing in them is trusted."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.errors import DataError, LabelsError
from packhorse_host.evaluate.read import read_calibration, read_evaluation
from packhorse_host.evaluate.samples import ArraySamples, arrays_sha256
from packhorse_host.evaluate.sources.npz import NpzSamples, read_columns
from tests.host.float_models import IMAGE, images, save_npz

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 3))
IDS = TensorSpec(name="ids", datatype="INT64", shape=(-1, -1))


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> tuple[NpzSamples, ArraySamples]:
    """The same samples in three files, one of them stored and one in Fortran's order; and in memory."""
    folder = tmp_path_factory.mktemp("split")
    x, ids = rows(40), np.arange(80).reshape(40, 2)
    np.savez_compressed(folder / "a.npz", x=x[:7], ids=ids[:7])
    np.savez(folder / "b.npz", x=x[7:8], ids=ids[7:8])
    np.savez(folder / "c.npz", x=np.asfortranarray(x[8:]), ids=np.asfortranarray(ids[8:]))
    files = [read_columns(file) for file in sorted(folder.iterdir())]
    return NpzSamples(folder, [X, IDS], files), ArraySamples({"x": x, "ids": ids})


def alike(first: dict[str, Array], second: dict[str, Array]) -> None:
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == second[name].dtype
        np.testing.assert_array_equal(array, second[name])


@given(st.lists(st.integers(0, 39), min_size=1, max_size=20))
@settings(max_examples=30)
def test_what_is_taken_out_is_what_memory_has(
    split: tuple[NpzSamples, ArraySamples], indexes: list[int]
) -> None:
    """In any order, also twice."""
    lazy, held = split
    alike(dict(lazy.take(indexes).arrays), dict(held.take(indexes).arrays))


@given(st.integers(1, 50), st.integers(0, 39), st.none() | st.integers(0, 60))
@settings(max_examples=30)
def test_batches_are_those_of_memory(
    split: tuple[NpzSamples, ArraySamples], size: int, first: int, last: int | None
) -> None:
    lazy, held = split
    found, expected = list(lazy.batches(size, first, last)), list(held.batches(size, first, last))
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        alike(one, two)


def test_the_digest_is_that_of_memory(split: tuple[NpzSamples, ArraySamples]) -> None:
    lazy, held = split
    assert lazy.count == held.count == 40
    assert lazy.sha256 == held.sha256 == arrays_sha256(held.arrays)


def test_arrays_of_the_other_byte_order_are_the_same_samples(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "data.npz", x=rows(5).astype(">f4"))
    samples = read_calibration(path, [X])
    assert samples.sha256 == arrays_sha256({"x": rows(5)})
    assert samples.take([0]).arrays["x"].dtype == np.dtype(np.float32)


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    """An archive of 16 times the samples takes no more to read through."""
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 64, 64))
    peaks = []
    for count in (64, 1024):
        np.savez(tmp_path / "data.npz", x=np.ones((count, 64, 64), np.float32))
        tracemalloc.start()
        samples = read_calibration(tmp_path / "data.npz", [spec])
        assert sum(len(batch["x"]) for batch in samples.batches(16)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.25 * peaks[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"this is a text", "it begins with b'this i'"),
        (pickle.dumps({"x": 1}), "Python objects"),
        (b"PK\x03\x04 and nothing more", "damaged"),
    ],
)
def test_files_that_are_no_archives(tmp_path: Path, content: bytes, words: str) -> None:
    """A text that is named .npz is called a text, not a pickle."""
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_calibration(path, [X])
    assert ("pickle" in str(caught.value)) == (content[:1] == b"\x80")


def npy(header: bytes, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    length = len(header).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + length + header + content


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 3), }"


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (npy(HEADER % 10, bytes(12)), "ends early"),
        (npy(HEADER % 2**60), "ends early|damaged"),
        (npy(b"{'descr': '<f4'}"), "damaged"),
        (npy(b"__import__('os').system('true')"), "damaged"),
        (npy(HEADER % 1, bytes(12), b"\x09\x00"), "version"),
        (b"hello", "damaged"),
    ],
)
def test_arrays_that_are_none(tmp_path: Path, member: bytes, words: str) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(DataError, match=words):
        read_calibration(path, [X])


def test_the_second_version_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", npy(HEADER % 1, bytes(12), b"\x02\x00"))
    assert read_calibration(path, [X]).count == 1


def _texts(count: int) -> Array:
    return np.array([f"text {index}" for index in range(count)])


def test_all_kinds_of_truth(tmp_path: Path) -> None:
    """By their own names, or as `truth.NAME` for what only an own metric knows."""
    truth: dict[str, Any] = {
        "boxes": np.zeros((4, 2, 4)), "classes": np.zeros((4, 2), int), "box_counts": np.ones(4, int),
        "texts": _texts(4), "truth.angle": np.arange(4.0),
    }  # fmt: skip
    path = save_npz(tmp_path / "data.npz", x=rows(4), **truth)
    labelled = read_evaluation(path, [X], needs=("boxes", "texts", "angle"))
    assert labelled.truth.arrays.keys() == {"boxes", "classes", "box_counts", "texts", "angle"}
    np.testing.assert_array_equal(labelled.truth.arrays["texts"], _texts(4))
    assert read_calibration(path, [X]).sha256 == arrays_sha256({"x": rows(4)})


def test_an_input_may_have_the_name_of_truth(tmp_path: Path) -> None:
    labels = TensorSpec(name="labels", datatype="FP32", shape=(-1, 3))
    path = save_npz(tmp_path / "data.npz", **{"labels": rows(4), "truth.labels": np.arange(4)})
    labelled = read_evaluation(path, [labels])
    np.testing.assert_array_equal(labelled.truth.arrays["labels"], np.arange(4))
    np.testing.assert_array_equal(labelled.samples.take([0]).arrays["labels"], rows(4)[:1])
    changed = save_npz(tmp_path / "other.npz", **{"labels": rows(4), "truth.labels": np.zeros(4, int)})
    assert labelled.sha256 != read_evaluation(changed, [labels]).sha256


def test_free_outputs_need_no_truth(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "data.npz", x=rows(4))
    labelled = read_evaluation(path, [X], needs=())
    assert labelled.truth.arrays == {}
    assert labelled.sha256 == labelled.samples.sha256


def test_truth_of_several_files_is_joined(tmp_path: Path) -> None:
    save_npz(tmp_path / "a.npz", x=rows(2), labels=np.array([0, 1]))
    save_npz(tmp_path / "b.npz", x=rows(1), labels=np.array([2], np.uint8))
    np.testing.assert_array_equal(read_evaluation(tmp_path, [X]).truth.arrays["labels"], [0, 1, 2])


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({}, "not all hold the same truth"),
        ({"labels": np.zeros((1, 1), int)}, "another shape in each file"),
    ],
)
def test_truth_that_does_not_join(tmp_path: Path, second: dict[str, Array], words: str) -> None:
    save_npz(tmp_path / "a.npz", x=rows(2), labels=np.array([0, 1]))
    save_npz(tmp_path / "b.npz", x=rows(1), **second)
    with pytest.raises(LabelsError, match=words):
        read_evaluation(tmp_path, [X])


def test_truth_of_another_length(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "data.npz", x=rows(4), texts=_texts(3))
    with pytest.raises(LabelsError, match=r"expected shape \[4, ...\], found \[3\]"):
        read_evaluation(path, [X], needs=("texts",))


def test_truth_in_python_objects(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=rows(1), texts=np.array(["a"], dtype=object))
    with pytest.raises(DataError, match="pickle"):
        read_evaluation(path, [X], needs=("texts",))


def test_a_file_that_goes_away_while_it_is_read(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "data.npz", image=images(4))
    samples = read_calibration(path, [IMAGE])
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        list(samples.batches(2))


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "data.npz", image=images(4))
    samples = read_calibration(path, [IMAGE])
    buffer = io.BytesIO()
    np.savez(buffer, image=images(4)[:2])
    path.write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="ends early"):
        list(samples.batches(4))
