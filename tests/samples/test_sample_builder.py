"""The part of `scripts/train_sample` that needs no training: its options and its data."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sample_builder import dataset

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPTS / "train_sample", *options], capture_output=True, text=True, check=False, timeout=20
    )


def test_help_names_every_option() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert all(option in result.stdout for option in ("--output", "--epochs", "--data", "--venv"))


@pytest.mark.parametrize(
    "options", [("--frobnicate",), ("--epochs",), ("--epochs", "0"), ("--epochs", "ten")]
)
def test_wrong_option_is_said_before_anything_is_installed(options: tuple[str, ...]) -> None:
    result = run(*options)
    assert result.returncode == 2
    assert options[0] in result.stderr


@pytest.mark.parametrize("count", [10, 25, 256])
def test_balanced_takes_the_first_of_each_class_in_order(count: int) -> None:
    labels = np.random.default_rng(7).permutation(np.arange(600) % 10)
    images = np.zeros((600, 28, 28), dtype=np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(600), 256)
    taken = dataset.balanced(dataset.Split(images, labels), count)
    counts = np.bincount(taken.labels, minlength=10)
    order = taken.images[:, 0, 0].astype(np.int64) * 256 + taken.images[:, 0, 1]
    assert len(taken) == count
    assert counts.max() - counts.min() <= 1
    assert (np.diff(order) > 0).all()
    for label in range(10):
        first = np.flatnonzero(labels == label)[: counts[label]]
        np.testing.assert_array_equal(order[taken.labels == label], first)


def test_input_is_pixels_over_255_in_nchw() -> None:
    images = np.full((2, 28, 28), 51, dtype=np.uint8)
    image = dataset.as_input(images)
    assert image.dtype == np.float32
    assert image.shape == (2, 1, 28, 28)
    np.testing.assert_allclose(image, 0.2, rtol=1e-6)


def test_npz_bytes_depend_on_the_arrays_alone(tmp_path: Path) -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    labels = np.arange(3, dtype=np.int64)
    dataset.write_npz(tmp_path / "a.npz", image=image, labels=labels)
    dataset.write_npz(tmp_path / "b.npz", image=image, labels=labels)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        assert read.files == ["image", "labels"]
        np.testing.assert_array_equal(read["image"], image)


def test_absent_data_set_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(dataset.DatasetError, match="train-images-idx3-ubyte"):
        dataset.load_split(tmp_path, "train")


@pytest.mark.parametrize(
    "content",
    [b"", b"not gzip", gzip.compress(b"other bytes"), gzip.compress(bytes(1000))[:-9]],
    ids=["empty", "not gzip", "other content", "truncated"],
)
def test_wrong_data_set_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(dataset.DatasetError):
        dataset.load_split(tmp_path, "t10k")
