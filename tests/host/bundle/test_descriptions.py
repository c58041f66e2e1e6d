"""Label and preprocessing files fit the model, or are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.manifest import TensorSpec
from packhorse_host.bundle.descriptions import (
    DESCRIPTION_MAX_BYTES,
    encode_labels,
    read_labels,
    read_preprocessing,
)
from packhorse_host.bundle.errors import DescriptionError
from tests.host.float_models import IMAGE, LOGITS


def written(folder: Path, content: bytes | str) -> Path:
    path = folder / "description"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("content", ["a\nb\nc\nd e\n", "a\r\nb\r\nc\r\nd e", " a\nb \nc\nd e\n"])
def test_labels_are_one_a_line(tmp_path: Path, content: str) -> None:
    """However the lines end; the artifact always ends them alike."""
    labels = read_labels(written(tmp_path, content), [LOGITS])
    assert labels == ("a", "b", "c", "d e")
    assert encode_labels(labels) == b"a\nb\nc\nd e\n"


def test_any_number_of_labels_where_the_model_does_not_say(tmp_path: Path) -> None:
    free = TensorSpec(name="logits", datatype="FP32", shape=(-1, -1))
    assert len(read_labels(written(tmp_path, "a\nb\n"), [free])) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a\nb\nc\n", "expected 4 labels.*found 3"),
        ("a\nb\nc\nd\ne\n", "expected 4 labels.*found 5"),
        ("a\n\nc\nd\n", "line 2 is empty"),
        ("", "empty"),
        (b"\xff\xfe\x00a", "not UTF-8"),
        ("a" * (DESCRIPTION_MAX_BYTES + 1), "larger than"),
    ],
)
def test_labels_that_do_not_match(tmp_path: Path, content: bytes | str, words: str) -> None:
    with pytest.raises(DescriptionError, match=words) as caught:
        read_labels(written(tmp_path, content), [LOGITS])
    assert caught.value.exit_code is ExitCode.BAD_INPUT


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match="no such file"):
        read_labels(tmp_path / "missing", [LOGITS])
    with pytest.raises(DescriptionError, match="is a folder"):
        read_preprocessing(tmp_path, [IMAGE])


@pytest.mark.parametrize("content", ['{"input": "image", "mean": [0.5]}', '{"mean": [0.5]}'])
def test_preprocessing_is_kept_as_written(tmp_path: Path, content: str) -> None:
    assert read_preprocessing(written(tmp_path, content), [IMAGE]) == content.encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "a JSON object is expected, found a list"),
        ('{"input": "picture"}', "`picture`, the model has image"),
    ],
)
def test_preprocessing_that_does_not_fit(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(DescriptionError, match=words):
        read_preprocessing(written(tmp_path, content), [IMAGE])
