"""Data sets: one array per model input, the first axis counting samples.

An evaluation set has `labels` too: the class of each sample, as integers.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import DTYPES, Array, Tensors
from packhorse_host.evaluate.errors import DataError, DataMismatchError, LabelsError
from packhorse_host.evaluate.metrics.base import Truth

LABELS: Final = "labels"


class Samples(Protocol):
    """Inputs that fit a model, at least one; perhaps more than memory holds, so ask for a part at a time."""

    @property
    def count(self) -> int:
        """How many samples."""

    @property
    def sha256(self) -> str:
        """Names the content: equal arrays give equal digests, whatever they are read from."""

    def take(self, indexes: Sequence[int]) -> ArraySamples:
        """The samples at `indexes`, in that order, in memory."""

    def batches(self, size: int, first: int = 0, last: int | None = None) -> Iterator[dict[str, Array]]:
        """Samples `first` to `last`, `size` at a time; the last batch is filled up by repeating its end."""


@dataclass(frozen=True)
class ArraySamples:
    """Samples that are in memory."""

    arrays: Tensors
    """By input name; the first axis counts samples and has the same length everywhere."""

    @property
    def count(self) -> int:
        """How many samples."""
        return len(next(iter(self.arrays.values())))

    @property
    def sha256(self) -> str:
        """Names the content: equal arrays give equal digests, however the file was compressed."""
        return arrays_sha256(self.arrays)

    def take(self, indexes: Sequence[int]) -> ArraySamples:
        """The samples at `indexes`, in that order."""
        return ArraySamples({name: array[list(indexes)] for name, array in self.arrays.items()})

    def batches(self, size: int, first: int = 0, last: int | None = None) -> Iterator[dict[str, Array]]:
        """Samples `first` to `last`, `size` at a time; the last batch is filled up by repeating its end."""
        stop = min(self.count, self.count if last is None else last)
        for start in range(first, stop, size):
            indexes = np.minimum(np.arange(start, start + size), stop - 1)
            yield {name: array[indexes] for name, array in self.arrays.items()}


@dataclass(frozen=True)
class LabelledSamples:
    """An evaluation set: samples, and what is right for each."""

    samples: ArraySamples
    truth: Truth

    @property
    def sha256(self) -> str:
        """Names samples and truth together."""
        return arrays_sha256({**self.samples.arrays, **self.truth.arrays})


def arrays_sha256(arrays: Tensors) -> str:
    """SHA-256 over arrays by ascending name: `NAME\\0DTYPE\\0SHAPE\\0`, then the little-endian content.

    DTYPE as numpy writes it (`<f4`), SHAPE as decimal lengths with commas.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        shape = ",".join(str(length) for length in array.shape)
        digest.update(f"{name}\0{array.dtype.str}\0{shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def read_calibration(path: Path, inputs: Sequence[TensorSpec]) -> ArraySamples:
    """Read calibration data: one file, or all `.npz` files of a folder by name; `labels` are ignored.

    Raises:
        DataError: missing, damaged, empty, or holds a number that is not finite.
        DataMismatchError: names, shapes or types are not those of the model.
    """
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: no .npz file in this folder")
    parts = [_checked(file, _without_labels(_read(file)), inputs) for file in files]
    return ArraySamples({spec.name: _joined(path, spec, parts) for spec in inputs})


def read_evaluation(path: Path, inputs: Sequence[TensorSpec]) -> LabelledSamples:
    """Read an evaluation set.

    Raises:
        DataError: missing, damaged, empty, or holds a number that is not finite.
        DataMismatchError: names, shapes or types are not those of the model.
        LabelsError: no labels, not one integer for each sample.
    """
    arrays = _read(path)
    if LABELS not in arrays:
        raise LabelsError(f"{path}: no array `{LABELS}`; found {_listed(arrays)}")
    samples = ArraySamples(_checked(path, _without_labels(arrays), inputs))
    labels = arrays[LABELS]
    if labels.dtype.kind not in "iu":
        raise LabelsError(f"{path}: `{LABELS}` must be integers, found {labels.dtype}")
    if labels.shape != (samples.count,):
        raise LabelsError(
            f"{path}: `{LABELS}` must have one class for each sample: expected shape [{samples.count}], "
            f"found {list(labels.shape)}"
        )
    return LabelledSamples(samples, Truth(samples.count, {LABELS: labels.astype(np.int64)}))


def _read(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(
                    f"{path}: a bare array; an .npz file with one array per model input is wanted"
                )
            return dict(archive)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a folder, an .npz file is expected") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise DataError(f"{path}: holds Python objects (pickle), which are never loaded") from error
        raise DataError(f"{path}: not an .npz file, or damaged: {error}") from error


def _without_labels(arrays: Tensors) -> dict[str, Array]:
    return {name: array for name, array in arrays.items() if name != LABELS}


def _checked(path: Path, arrays: Tensors, inputs: Sequence[TensorSpec]) -> Tensors:
    expected = {spec.name for spec in inputs}
    if set(arrays) != expected:
        raise DataMismatchError(f"{path}: expected {_listed(expected)}, found {_listed(arrays)}")
    for spec in inputs:
        _check_array(path, arrays[spec.name], spec)
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1:
        raise DataMismatchError(f"{path}: inputs must have equally many samples, found {counts}")
    if next(iter(counts.values())) == 0:
        raise DataError(f"{path}: empty: it holds no sample")
    for name, array in arrays.items():
        _check_finite(path, name, array)
    return arrays


def _check_array(path: Path, array: Array, spec: TensorSpec) -> None:
    dtype = DTYPES[spec.datatype]
    if array.dtype != dtype:
        raise DataMismatchError(f"{path}: `{spec.name}` must be {dtype}, found {array.dtype}")
    axes = spec.shape[1:]
    fits = array.ndim == len(spec.shape) and all(
        axis in (-1, length) for axis, length in zip(axes, array.shape[1:], strict=True)
    )
    if not fits:
        shape = ", ".join(["samples", *("any" if axis == -1 else str(axis) for axis in axes)])
        raise DataMismatchError(f"{path}: `{spec.name}` must be [{shape}], found {list(array.shape)}")


def _check_finite(path: Path, name: str, array: Array) -> None:
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise DataError(
            f"{path}: `{name}` holds NaN or infinity in {int((~finite).sum())} of {len(array)} samples, "
            f"first in sample {first}"
        )


def _joined(path: Path, spec: TensorSpec, parts: Sequence[Tensors]) -> Array:
    arrays = [part[spec.name] for part in parts]
    if len({array.shape[1:] for array in arrays}) != 1:
        shapes = sorted({str(list(array.shape[1:])) for array in arrays})
        raise DataMismatchError(f"{path}: `{spec.name}` has samples of different shapes: {', '.join(shapes)}")
    return np.concatenate(arrays)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "nothing"
