"""`.npz` files: zip archives of arrays, read row by row so that no array need fit in memory.

Format: NEP 1 of NumPy, "A Simple File Format for NumPy Arrays". Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import DTYPES, Array
from packhorse_host.evaluate.errors import DataError, DataMismatchError
from packhorse_host.evaluate.samples import LazySamples, Read

_SUFFIX: Final = ".npy"


@dataclass(frozen=True)
class Column:
    """One array of a file, known by its header."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int
    """Bytes before the content."""

    @property
    def row_bytes(self) -> int:
        """Size of one sample."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


class NpzSamples(LazySamples):
    """The samples of one file after the other."""

    def __init__(self, where: Path, inputs: Sequence[TensorSpec], files: Sequence[dict[str, Column]]) -> None:
        """`files` are the columns of each file, which have every input."""
        counts = [_rows(file, inputs) for file in files]
        super().__init__(str(where), inputs, sum(counts))
        self._files = files
        self._starts = np.cumsum([0, *counts])
        for spec in inputs:
            _check_alike(where, [file[spec.name] for file in files])

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Read]:
        current: tuple[int, _OpenFile] | None = None

        def of(number: int) -> _OpenFile:
            nonlocal current
            if current is None or current[0] != number:
                if current is not None:
                    current[1].close()
                current = number, _OpenFile(self._files[number])
            return current[1]

        def read(indexes: Sequence[int], names: Collection[str]) -> dict[str, Array]:
            parts: dict[str, list[Array]] = {name: [] for name in names}
            for number, rows in self._by_file(indexes):
                for name in names:
                    parts[name].append(of(number).rows(name, rows))
            return {name: np.concatenate(arrays) for name, arrays in parts.items()}

        try:
            yield read
        finally:
            if current is not None:
                current[1].close()

    def _by_file(self, indexes: Sequence[int]) -> Iterator[tuple[int, Array]]:
        wanted = np.asarray(indexes, np.int64)
        numbers = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(numbers):
            yield int(number), wanted[numbers == number] - self._starts[number]


class _OpenFile:
    """An archive with a stream for each array that was asked for."""

    def __init__(self, columns: dict[str, Column]) -> None:
        self._columns = columns
        self._path = next(iter(columns.values())).path
        self._streams: dict[str, IO[bytes]] = {}
        self._whole: dict[str, Array] = {}
        with translated(self._path):
            self._archive = zipfile.ZipFile(self._path)

    def close(self) -> None:
        """Let go of the file."""
        for stream in self._streams.values():
            stream.close()
        self._archive.close()

    def rows(self, name: str, indexes: Array) -> Array:
        """Rows of an array, at ascending indexes."""
        column = self._columns[name]
        with translated(self._path):
            if column.fortran:  # its rows do not lie together
                if name not in self._whole:
                    self._whole[name] = read_whole(self._archive, column)
                found: Array = self._whole[name][indexes]
                return found
            runs = np.split(indexes, np.flatnonzero(np.diff(indexes) != 1) + 1)
            return np.concatenate([self._run(column, int(run[0]), len(run)) for run in runs])

    def _run(self, column: Column, first: int, count: int) -> Array:
        if column.name not in self._streams:
            self._streams[column.name] = self._archive.open(column.name + _SUFFIX)
        stream = self._streams[column.name]
        start = column.offset + first * column.row_bytes
        if stream.tell() != start:  # seeking gives up the checksum, so not without need
            stream.seek(start)
        data = stream.read(count * column.row_bytes)
        if len(data) != count * column.row_bytes:
            raise DataError(f"{self._path}: damaged: `{column.name}` ends early")
        rows = np.frombuffer(data, column.dtype).reshape(count, *column.shape[1:])
        return rows.astype(column.dtype.newbyteorder("="))


def read_columns(path: Path) -> dict[str, Column]:
    """The headers of all arrays of a file.

    Raises:
        DataError: missing, no `.npz` file, damaged, or with Python objects.
    """
    _check_kind(path)
    with translated(path), zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(_SUFFIX)]
        return {name[: -len(_SUFFIX)]: _header(path, archive, name) for name in members}


def read_arrays(path: Path, columns: Collection[Column]) -> dict[str, Array]:
    """Arrays of one file, whole.

    Raises:
        DataError: damaged.
    """
    with translated(path), zipfile.ZipFile(path) as archive:
        return {column.name: read_whole(archive, column) for column in columns}


def read_whole(archive: zipfile.ZipFile, column: Column) -> Array:
    """One array of an open archive."""
    with archive.open(column.name + _SUFFIX) as stream:
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # to the end, where the checksum is compared
    return array


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """What reading a zip or an array raises, as `DataError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError, OSError) as error:
        raise DataError(f"{path}: not an .npz file, or damaged: {error}") from error


def _check_kind(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(6)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a folder, an .npz file is expected") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if magic == b"\x93NUMPY":
        raise DataError(f"{path}: a bare array; an .npz file with one array per model input is wanted")
    if magic[:1] == b"\x80":
        raise DataError(f"{path}: not an .npz file but Python objects (pickle), which are never loaded")
    if magic[:2] != b"PK":
        found = "empty" if not magic else f"it begins with {magic!r}"
        raise DataError(f"{path}: not an .npz file: {found}")


def _header(path: Path, archive: zipfile.ZipFile, member: str) -> Column:
    name = member[: -len(_SUFFIX)]
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise DataError(
                f"{path}: `{name}` is written in version {version} of the format, which none needs"
            )
        if dtype.hasobject:
            raise DataError(f"{path}: `{name}` holds Python objects (pickle), which are never loaded")
        return Column(path, name, shape, dtype, fortran, stream.tell())


def _rows(file: dict[str, Column], inputs: Sequence[TensorSpec]) -> int:
    """How many samples a file has, after a look at types and shapes."""
    columns = [file[spec.name] for spec in inputs]
    for spec, column in zip(inputs, columns, strict=True):
        _check_column(column, spec)
    counts = {column.name: column.shape[0] for column in columns}
    if len(set(counts.values())) != 1:
        raise DataMismatchError(f"{columns[0].path}: inputs must have equally many samples, found {counts}")
    if columns[0].shape[0] == 0:
        raise DataError(f"{columns[0].path}: empty: it holds no sample")
    return columns[0].shape[0]


def _check_column(column: Column, spec: TensorSpec) -> None:
    dtype = DTYPES[spec.datatype]
    if column.dtype.newbyteorder("=") != dtype:
        raise DataMismatchError(f"{column.path}: `{spec.name}` must be {dtype}, found {column.dtype}")
    axes = ["samples", *("any" if axis == -1 else str(axis) for axis in spec.shape[1:])]
    pairs = zip(spec.shape[1:], column.shape[1:], strict=False)
    if len(column.shape) != len(axes) or not all(axis in (-1, length) for axis, length in pairs):
        raise DataMismatchError(
            f"{column.path}: `{spec.name}` must be [{', '.join(axes)}], found {list(column.shape)}"
        )


def _check_alike(where: Path, columns: Sequence[Column]) -> None:
    shapes = sorted({str(list(column.shape[1:])) for column in columns})
    if len(shapes) != 1:
        raise DataMismatchError(
            f"{where}: `{columns[0].name}` has samples of different shapes: {', '.join(shapes)}"
        )
