"""Samples from a Python iterable, which may pass only once: they are kept in a temporary file.

Memory stays as it is however many there are; the disk takes their size.
"""

from __future__ import annotations

import contextlib
import tempfile
import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import DTYPES, Array, Tensors
from packhorse_host.evaluate.errors import DataError, DataMismatchError
from packhorse_host.evaluate.samples import LazySamples, Read, check_array, check_finite


class SpooledSamples(LazySamples):
    """Samples that were written one after the other; the files go with this object."""

    def __init__(
        self, where: str, inputs: Sequence[TensorSpec], count: int,
        files: dict[str, IO[bytes]], shapes: dict[str, tuple[int, ...]],
    ) -> None:  # fmt: skip
        """A file and the shape of one sample for each input."""
        super().__init__(where, inputs, count)
        self._files = files
        self._shapes = shapes
        weakref.finalize(self, _close, list(files.values()))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Read]:
        def read(indexes: Sequence[int], names: Collection[str]) -> dict[str, Array]:
            return {name: np.stack([self._one(name, index) for index in indexes]) for name in names}

        yield read

    def _one(self, name: str, index: int) -> Array:
        dtype, shape = DTYPES[self._specs[name].datatype], self._shapes[name]
        size_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._files[name].seek(index * size_bytes)
        return np.frombuffer(self._files[name].read(size_bytes), dtype).reshape(shape)


def from_iterable(
    samples: Iterable[Tensors],
    inputs: Sequence[TensorSpec],
    *,
    folder: Path | None = None,
    where: str = "the iterable",
) -> SpooledSamples:
    """Take all samples of an iterable, each an array for every input without the axis that counts samples.

    Args:
        samples: walked through once.
        inputs: of the model.
        folder: for the temporary files; by default the system's.
        where: what errors begin with.

    Raises:
        DataError: no sample, or one that holds a number that is not finite.
        DataMismatchError: names, shapes or types are not those of the model, or shapes differ.
    """
    files: dict[str, IO[bytes]] = {}
    for spec in inputs:
        files[spec.name] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it goes with the samples
    shapes: dict[str, tuple[int, ...]] = {}
    count = 0
    for sample in samples:
        if set(sample) != set(files):
            raise DataMismatchError(f"{where}: expected {sorted(files)}, found {sorted(sample)}")
        for spec in inputs:
            _append(files[spec.name], np.asarray(sample[spec.name]), spec, shapes, f"{where}: sample {count}")
        count += 1
    if count == 0:
        raise DataError(f"{where}: empty: it holds no sample")
    return SpooledSamples(where, inputs, count, files, shapes)


def _close(files: Iterable[IO[bytes]]) -> None:
    for file in files:
        file.close()


def _append(
    file: IO[bytes], array: Array, spec: TensorSpec, shapes: dict[str, tuple[int, ...]], where: str
) -> None:
    check_array(where, array[np.newaxis], spec)
    check_finite(where, spec.name, array[np.newaxis], [0])
    expected = shapes.setdefault(spec.name, array.shape)
    if array.shape != expected:
        raise DataMismatchError(
            f"{where}: `{spec.name}` has shape {list(array.shape)}, {list(expected)} before"
        )
    file.write(np.ascontiguousarray(array).tobytes())
