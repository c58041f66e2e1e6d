"""Data sets: one array per model input, the first axis counting samples; and what is right for each sample.

A data set need not fit in memory. Whoever needs all of it asks for batches; only what is taken out by index
is an array at hand. Where the data come from is a matter of `packhorse_host.evaluate.sources`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import DTYPES, Array, Tensors
from packhorse_host.evaluate.errors import DataError, DataMismatchError
from packhorse_host.evaluate.metrics.base import Truth

_STEP: Final = 8
"""Samples that are read at once where nobody asked for another number."""


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


Read = Callable[[Sequence[int], Collection[str]], dict[str, Array]]
"""Ascending indexes of samples and names of inputs → arrays, the first axis counting samples."""


class LazySamples(ABC):
    """Samples that are read when they are asked for, and checked each time."""

    def __init__(self, where: str, inputs: Sequence[TensorSpec], count: int) -> None:
        """`where` is what errors begin with; `count` is at least 1."""
        self._where = where
        self._specs = {spec.name: spec for spec in inputs}
        self._count = count

    @property
    def count(self) -> int:
        """How many samples."""
        return self._count

    @cached_property
    def sha256(self) -> str:
        """Names the content, as `arrays_sha256` of all of it; reads everything, and so checks it."""
        return content_sha256(self, {})

    def take(self, indexes: Sequence[int]) -> ArraySamples:
        """The samples at `indexes`, in that order, in memory.

        Raises:
            DataError: as `batches`.
        """
        ordered, places = np.unique(np.asarray(indexes, np.int64), return_inverse=True)
        with self._opened() as read:
            arrays = self._checked(read, [int(index) for index in ordered], self._specs)
        return ArraySamples({name: array[places.reshape(-1)] for name, array in arrays.items()})

    def batches(self, size: int, first: int = 0, last: int | None = None) -> Iterator[dict[str, Array]]:
        """Samples `first` to `last`, `size` at a time; the last batch is filled up by repeating its end.

        Raises:
            DataError: a sample cannot be read or does not fit the model; the text says which.
        """
        stop = min(self.count, self.count if last is None else last)
        with self._opened() as read:
            for start in range(first, stop, size):
                arrays = self._checked(read, range(start, min(start + size, stop)), self._specs)
                places = np.minimum(np.arange(size), stop - start - 1)
                yield {name: array[places] for name, array in arrays.items()}

    def column(self, name: str) -> Iterator[Array]:
        """All samples of one input, some at a time."""
        with self._opened() as read:
            for start in range(0, self.count, _STEP):
                indexes = range(start, min(start + _STEP, self.count))
                yield self._checked(read, indexes, [name])[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the inputs."""
        return tuple(self._specs)

    @abstractmethod
    def _opened(self) -> AbstractContextManager[Read]:
        """Hold files open for one way through the samples."""

    def _checked(self, read: Read, indexes: Sequence[int], names: Collection[str]) -> dict[str, Array]:
        arrays = read(indexes, names)
        for name, array in arrays.items():
            check_array(self._where, array, self._specs[name])
            check_finite(self._where, name, array, indexes)
        return arrays


@dataclass(frozen=True)
class LabelledSamples:
    """An evaluation set: samples, and what is right for each."""

    samples: Samples
    truth: Truth

    @cached_property
    def sha256(self) -> str:
        """Names samples and truth together; truth that has an input's name as `truth.NAME`."""
        inputs = input_names(self.samples)
        truth = {
            f"truth.{name}" if name in inputs else name: array for name, array in self.truth.arrays.items()
        }
        return content_sha256(self.samples, truth)

    def doubts(self) -> list[str]:
        """Why scores on this set may say little, for people."""
        said = []
        if self.samples.count == 1:
            said.append("one sample: no score can be told from chance")
        labels = self.truth.arrays.get("labels")
        if labels is not None and len(labels) > 1 and len(np.unique(labels)) == 1:
            said.append(f"all {len(labels)} labels are {labels[0]}: a model that never looks scores alike")
        return said


def arrays_sha256(arrays: Tensors) -> str:
    """SHA-256 over arrays by ascending name: `NAME\\0DTYPE\\0SHAPE\\0`, then the little-endian content.

    DTYPE as numpy writes it (`<f4`), SHAPE as decimal lengths with commas.
    """
    return content_sha256(None, arrays)


def content_sha256(samples: Samples | None, arrays: Tensors) -> str:
    """`arrays_sha256` of samples and further arrays together, without having all samples in memory.

    Raises:
        DataError: a sample cannot be read.
    """
    names = input_names(samples) if samples is not None else ()
    digest = hashlib.sha256()
    for name in sorted([*names, *arrays]):
        if name in arrays or samples is None:
            _digest_parts(digest, name, iter([arrays[name]]), arrays[name].shape)
        else:
            _digest_parts(digest, name, _column(samples, name), (samples.count,))
    return digest.hexdigest()


def _digest_parts(digest: Any, name: str, parts: Iterator[Array], shape: tuple[int, ...]) -> None:
    for index, part in enumerate(parts):
        array = np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<"))
        if index == 0:
            axes = ",".join(str(axis) for axis in (*shape[:1], *part.shape[1:]))
            digest.update(f"{name}\0{array.dtype.str}\0{axes}\0".encode())
        digest.update(array.tobytes())


def input_names(samples: Samples) -> Collection[str]:
    """Names of the model's inputs that the samples are for."""
    if isinstance(samples, LazySamples):
        return samples.names
    return samples.take([0]).arrays.keys()


def _column(samples: Samples, name: str) -> Iterator[Array]:
    if isinstance(samples, LazySamples):
        yield from samples.column(name)
    elif isinstance(samples, ArraySamples):
        yield samples.arrays[name]
    else:
        for start, batch in enumerate(samples.batches(_STEP)):
            yield batch[name][: samples.count - start * _STEP]


def check_array(where: str, array: Array, spec: TensorSpec) -> None:
    """Check type and shape of some samples, the first axis counting them.

    Raises:
        DataMismatchError: they are not those of the model; the text has expected and found.
    """
    dtype = DTYPES[spec.datatype]
    if array.dtype != dtype:
        raise DataMismatchError(f"{where}: `{spec.name}` must be {dtype}, found {array.dtype}")
    axes = spec.shape[1:]
    fits = array.ndim == len(spec.shape) and all(
        axis in (-1, length) for axis, length in zip(axes, array.shape[1:], strict=True)
    )
    if not fits:
        shape = ", ".join(["samples", *("any" if axis == -1 else str(axis) for axis in axes)])
        raise DataMismatchError(f"{where}: `{spec.name}` must be [{shape}], found {list(array.shape)}")


def check_finite(where: str, name: str, array: Array, indexes: Sequence[int]) -> None:
    """Check that samples, which `indexes` names, hold finite numbers only.

    Raises:
        DataError: one does not.
    """
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    raise DataError(f"{where}: `{name}` holds NaN or infinity in sample {indexes[int(np.argmin(finite))]}")
