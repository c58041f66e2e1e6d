"""Fashion-MNIST read from its IDX files, and the subsets that ship with the sample.

Format: four gzip files, each a big-endian header (two zero bytes, the element type 0x08 for
unsigned bytes, the number of axes, then one 32-bit length per axis) and the bytes in C order.
Source: the description of the IDX format by LeCun, Cortes and Burges, which Fashion-MNIST keeps.
"""

from __future__ import annotations

import gzip
import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
IMAGE_SIDE_PX = 28
_MAX_FILE_BYTES = 64 << 20
_ARCHIVE_TIME = (1980, 1, 1, 0, 0, 0)
# Of the uncompressed content: distributions compress the same files anew.
_SHA256 = {
    "train-images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


class DatasetError(Exception):
    """The data set's files are absent or are not the published ones."""


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, 28, 28] and their labels int64 [N], in the data set's own order."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: npt.NDArray[np.intp]) -> Split:
        """Return the samples at the indices, in the order of the indices."""
        return Split(self.images[indices], self.labels[indices])


def load_split(folder: Path, prefix: str) -> Split:
    """Read one split; `prefix` is `train` or `t10k`.

    Raises:
        DatasetError: a file is absent, broken, or its content is not the published one.
    """
    images = _read_idx(folder, f"{prefix}-images", axes=3)
    labels = _read_idx(folder, f"{prefix}-labels", axes=1)
    return Split(images, labels.astype(np.int64))


def balanced(split: Split, count: int) -> Split:
    """Take `count` samples, the first ones of each class, in the data set's order.

    No class has over one sample more than another. The files are shuffled already, so the
    first ones are as good as random ones, and every version of every library picks the same.
    """
    share, extra = divmod(count, len(CLASS_NAMES))
    chosen = [
        np.flatnonzero(split.labels == label)[: share + (label < extra)] for label in range(len(CLASS_NAMES))
    ]
    return split.take(np.sort(np.concatenate(chosen)))


def as_input(images: Images) -> npt.NDArray[np.float32]:
    """Turn uint8 [N, 28, 28] into the model's input: float32 [N, 1, 28, 28] in 0..1."""
    return (images.astype(np.float32) / np.float32(255))[:, np.newaxis]


def write_npz(path: Path, **arrays: npt.NDArray[np.generic]) -> None:
    """Write a compressed `.npz` whose bytes depend on nothing but the arrays and on zlib."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", _ARCHIVE_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)


def _read_idx(folder: Path, name: str, axes: int) -> Images:
    path = folder / f"{name}-idx{axes}-ubyte.gz"
    try:
        with gzip.open(path) as stream:
            raw = stream.read(_MAX_FILE_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != _SHA256[name]:
        raise DatasetError(f"{path}: SHA-256 of the content is {found}, expected {_SHA256[name]}")
    shape = np.frombuffer(raw, dtype=">u4", count=axes, offset=4)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)
