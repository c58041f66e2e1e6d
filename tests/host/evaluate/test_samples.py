"""Data files: what fits is read and named by content, what does not is refused with expected and found."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_host.evaluate.errors import DataError, DataMismatchError, LabelsError
from packhorse_host.evaluate.read import read_calibration, read_evaluation
from packhorse_host.evaluate.samples import ArraySamples, Samples, arrays_sha256
from tests.host.float_models import IMAGE, images, save_npz

TOKENS = TensorSpec(name="tokens", datatype="INT64", shape=(-1, -1))
LABELS = np.array([0, 1, 2, 3, 0], dtype=np.int64)


def whole(samples: Samples) -> Tensors:
    """All samples, in memory."""
    return samples.take(range(samples.count)).arrays


def test_calibration_is_one_array_for_each_input(tmp_path: Path) -> None:
    """Of any length on a free axis; `labels` may be there and do not count."""
    tokens = np.ones((5, 7), np.int64)
    path = save_npz(tmp_path / "data.npz", image=images(5), tokens=tokens, labels=LABELS)
    samples = read_calibration(path, [IMAGE, TOKENS])
    assert samples.count == 5
    assert whole(samples).keys() == {"image", "tokens"}


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    save_npz(tmp_path / "b.npz", image=images(2, seed=2))
    save_npz(tmp_path / "a.npz", image=images(3, seed=1))
    (tmp_path / "notes.txt").write_text("not data")
    samples = read_calibration(tmp_path, [IMAGE])
    np.testing.assert_array_equal(
        whole(samples)["image"], np.concatenate([images(3, seed=1), images(2, seed=2)])
    )


def test_an_evaluation_set_has_labels(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "data.npz", image=images(5), labels=LABELS.astype(np.uint8))
    labelled = read_evaluation(path, [IMAGE])
    assert labelled.truth.count == 5
    np.testing.assert_array_equal(labelled.truth.arrays["labels"], LABELS)


def _fails(tmp_path: Path, error: type[Exception], words: str, **content: Array) -> None:
    path = save_npz(tmp_path / "data.npz", **content)
    with pytest.raises(error, match=words) as caught:
        read_evaluation(path, [IMAGE])
    assert str(path) in str(caught.value)
    assert caught.value.exit_code is ExitCode.BAD_INPUT  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (images(5).astype(np.float64), "must be float32, found float64"),
        (images(5).astype(np.uint8), "must be float32, found uint8"),
        (images(5)[:, 0], r"must be \[samples, 1, 8, 8\], found \[5, 8, 8\]"),
        (images(5)[..., :7], r"must be \[samples, 1, 8, 8\], found \[5, 1, 8, 7\]"),
        (images(5).transpose(0, 2, 3, 1), r"found \[5, 8, 8, 1\]"),
        (np.float32(1.0), r"found \[\]"),
    ],
)
def test_shapes_and_types_that_do_not_fit(tmp_path: Path, image: Any, words: str) -> None:
    """Expected and found are said."""
    _fails(tmp_path, DataMismatchError, words, image=np.asarray(image), labels=LABELS)


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    _fails(tmp_path, DataMismatchError, "expected `image`, found `picture`", picture=images(5), labels=LABELS)


def test_arrays_that_are_too_many(tmp_path: Path) -> None:
    """Most likely a slip of a name elsewhere."""
    content = {"image": images(5), "extra": images(5), "labels": LABELS}
    _fails(tmp_path, DataMismatchError, "found `extra`, `image`", **content)


def test_inputs_of_different_length(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "data.npz", image=images(5), tokens=np.ones((4, 2), np.int64))
    with pytest.raises(DataMismatchError, match=r"image.*5.*tokens.*4"):
        read_calibration(path, [IMAGE, TOKENS])


def test_an_empty_data_set(tmp_path: Path) -> None:
    _fails(tmp_path, DataError, "empty", image=images(0), labels=LABELS[:0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(tmp_path: Path, value: float) -> None:
    """The first sample that holds one is named."""
    image = images(5)
    image[3, 0, 2, 2] = value
    _fails(
        tmp_path,
        DataError,
        "NaN or infinity in sample 3",
        image=image,
        labels=LABELS,
    )


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS[:4], r"expected shape \[5\], found \[4\]"),
        (LABELS[:, np.newaxis], r"found \[5, 1\]"),
        (LABELS.astype(np.float32), "must be integers, found float32"),
        (np.array(["a", "b", "c", "d", "e"]), "must be integers"),
        (LABELS > 1, "must be integers, found bool"),
    ],
)
def test_labels_that_do_not_match_the_samples(tmp_path: Path, labels: Any, words: str) -> None:
    _fails(tmp_path, LabelsError, words, image=images(5), labels=labels)


def test_an_evaluation_set_without_labels(tmp_path: Path) -> None:
    _fails(tmp_path, LabelsError, "no array `labels`; found `image`", image=images(5))


class _Bomb:
    """Shows itself when it is unpickled."""

    opened = False

    def __reduce__(self) -> Any:
        return (setattr, (_Bomb, "opened", True))


def test_pickled_content_is_never_opened(tmp_path: Path) -> None:
    """Neither as an array of objects nor as a bare pickle."""
    path = tmp_path / "data.npz"
    np.savez(path, image=np.array([_Bomb()], dtype=object), labels=LABELS)
    with pytest.raises(DataError, match="pickle"):
        read_evaluation(path, [IMAGE])
    np.array([_Bomb()], dtype=object).dump(path)
    with pytest.raises(DataError, match=r"pickle|not an \.npz"):
        read_evaluation(path, [IMAGE])
    assert not _Bomb.opened


def test_a_bare_array(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with path.open("wb") as file:
        np.save(file, images(5))
    with pytest.raises(DataError, match="bare array"):
        read_calibration(path, [IMAGE])


@pytest.mark.parametrize("keep", [0, 1, 100, 600])
def test_a_truncated_file(tmp_path: Path, keep: int) -> None:
    path = save_npz(tmp_path / "data.npz", image=images(5))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"not an \.npz|damaged|pickle"):
        read_calibration(path, [IMAGE])


def test_a_damaged_member(tmp_path: Path) -> None:
    """The zip's own checksum is minded."""
    path = save_npz(tmp_path / "data.npz", image=images(50))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="damaged"):
        read_calibration(path, [IMAGE])


def test_a_zip_without_arrays(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError):
        read_calibration(path, [IMAGE])


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_calibration(tmp_path / "missing.npz", [IMAGE])


def test_a_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.npz file, image or \.wav file in this folder"):
        read_calibration(tmp_path, [IMAGE])


def test_files_of_a_folder_that_do_not_fit_each_other(tmp_path: Path) -> None:
    save_npz(tmp_path / "a.npz", tokens=np.ones((2, 3), np.int64))
    save_npz(tmp_path / "b.npz", tokens=np.ones((2, 4), np.int64))
    with pytest.raises(DataMismatchError, match=r"different shapes: \[3\], \[4\]"):
        read_calibration(tmp_path, [TOKENS])


def test_the_digest_names_the_content_not_the_file(tmp_path: Path) -> None:
    """However it was compressed, and whatever its order in memory."""
    save_npz(tmp_path / "deflated.npz", image=images(5))
    np.savez(tmp_path / "stored.npz", image=np.asfortranarray(images(5)))
    digests = {read_calibration(path, [IMAGE]).sha256 for path in tmp_path.iterdir()}
    assert digests == {arrays_sha256({"image": images(5)})}


def test_the_digest_is_fixed() -> None:
    """A published format: evidence of earlier releases must stay comparable."""
    content: dict[str, Array] = {"b": np.array([1, 2], np.int64), "a": np.array([[0.5]], np.float32)}
    written = b"a\0<f4\x001,1\0" + b"\0\0\0\x3f" + b"b\0<i8\x002\0" + bytes([1, *[0] * 7, 2, *[0] * 7])
    assert arrays_sha256(content) == hashlib.sha256(written).hexdigest()


@given(
    arrays.arrays(np.float32, (3, 2), elements=st.floats(-1, 1, width=32)),
    st.integers(0, 5),
)
def test_any_change_changes_the_digest(content: Array, position: int) -> None:
    changed = content.copy()
    changed.flat[position] += 1
    assert arrays_sha256({"x": content}) != arrays_sha256({"x": changed})
    assert arrays_sha256({"x": content}) != arrays_sha256({"y": content})
    assert arrays_sha256({"x": content}) != arrays_sha256({"x": content.reshape(2, 3)})


@given(st.integers(1, 40), st.integers(1, 12))
def test_batches_hold_every_sample_in_order(count: int, size: int) -> None:
    """All of them full; what the last has too much repeats its end."""
    samples = ArraySamples({"x": np.arange(count)})
    parts = [batch["x"] for batch in samples.batches(size)]
    assert all(len(part) == size for part in parts)
    joined = np.concatenate(parts)
    np.testing.assert_array_equal(joined[:count], np.arange(count))
    assert (joined[count:] == count - 1).all()
