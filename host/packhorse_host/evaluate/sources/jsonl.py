"""A JSONL file: on each line one object with a list of numbers for each input of the model.

Truth may stand beside them: `labels` (a whole number) or `texts` (a text).
"""

from __future__ import annotations

import contextlib
import json
from array import array
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import DTYPES, Array
from packhorse_host.errors import ConfigError
from packhorse_host.evaluate.errors import DataError, DataMismatchError, LabelsError
from packhorse_host.evaluate.preprocessing import TokenPreprocessing
from packhorse_host.evaluate.samples import LazySamples, Read

LINE_MAX_BYTES: Final = 16 * 1024 * 1024
_TRUTH_TYPES: Final = {"labels": int, "texts": str}


class JsonlSamples(LazySamples):
    """One line a sample."""

    def __init__(
        self, path: Path, inputs: Sequence[TensorSpec], starts: Sequence[int], how: TokenPreprocessing | None
    ) -> None:
        """`starts` are the places in the file where lines begin."""
        super().__init__(str(path), inputs, len(starts))
        self._path, self._starts, self._how = path, starts, how
        self._lengths: dict[str, tuple[int, ...]] = {}

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Read]:
        with self._path.open("rb") as file:

            def read(indexes: Sequence[int], names: Collection[str]) -> dict[str, Array]:
                rows = [(index, self._line(file, index)) for index in indexes]
                return {name: np.stack([self._one(*row, name) for row in rows]) for name in names}

            yield read

    def _line(self, file: Any, index: int) -> dict[str, Any]:
        file.seek(self._starts[index])
        return _object(self._path, index, file.readline(LINE_MAX_BYTES + 1))

    def _one(self, index: int, row: dict[str, Any], name: str) -> Array:
        where = f"{self._path}: line {index + 1}: `{name}`"
        if name not in row:
            raise DataMismatchError(f"{where} is missing")
        values = _numbers(where, row[name], DTYPES[self._specs[name].datatype])
        if self._how is not None and values.ndim == 1:
            values = _fitted(where, values, self._how, self._how.padding.get(name, 0))
        expected = self._lengths.setdefault(name, values.shape)
        if values.shape != expected:
            raise DataMismatchError(
                f"{where} has shape {list(values.shape)}, {list(expected)} before: "
                "a preprocessing description of kind `tokens` declares a length and what fills up"
            )
        return values


def open_jsonl(
    path: Path, inputs: Sequence[TensorSpec], how: object, truth: Collection[str]
) -> tuple[JsonlSamples, dict[str, Array]]:
    """The lines of a file as samples, and the truth in them, by name.

    Raises:
        DataError: missing or empty, or a line that is no object.
        ConfigError: what is declared is not about tokens.
        LabelsError: truth on some lines only, or of another type.
    """
    if how is not None and not isinstance(how, TokenPreprocessing):
        raise ConfigError(f"{path}: tokens need a preprocessing description of kind `tokens`")
    starts = array("Q")
    found: dict[str, list[Any]] = {name: [] for name in truth if name in _TRUTH_TYPES}
    for start, row in _lines(path):
        for name, values in found.items():
            if name in row:
                values.append(_truth(path, len(starts), name, row[name]))
        starts.append(start)
    if not starts:
        raise DataError(f"{path}: empty: it holds no sample")
    present = {name: values for name, values in found.items() if values}
    for name, values in present.items():
        if len(values) != len(starts):
            raise LabelsError(f"{path}: `{name}` stands on {len(values)} of {len(starts)} lines")
    return JsonlSamples(path, inputs, starts, how), {key: np.array(each) for key, each in present.items()}


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            start, index = 0, 0
            while line := file.readline(LINE_MAX_BYTES + 1):
                yield start, _object(path, index, line)
                start, index = start + len(line), index + 1
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _object(path: Path, index: int, line: bytes) -> dict[str, Any]:
    where = f"{path}: line {index + 1}"
    if len(line) > LINE_MAX_BYTES:
        raise DataError(f"{where} is longer than {LINE_MAX_BYTES} bytes")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: an object is expected, found a {type(row).__name__}")
    return row


def _numbers(where: str, value: Any, dtype: np.dtype[Any]) -> Array:
    try:
        values = np.array(value)
    except (ValueError, OverflowError, TypeError) as error:
        raise DataMismatchError(f"{where} is ragged: lists inside differ in length") from error
    kinds = "iuf" if dtype.kind == "f" else "b" if dtype.kind == "b" else "iu"
    if values.dtype.kind not in kinds:
        raise DataMismatchError(f"{where} must be numbers of {dtype}, found {values.dtype}")
    converted: Array = values.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(converted, values):
        raise DataMismatchError(f"{where} holds numbers that {dtype} cannot")
    return converted


def _fitted(where: str, values: Array, how: TokenPreprocessing, padding: int) -> Array:
    if len(values) > how.length and not how.truncate:
        raise DataMismatchError(
            f"{where} has {len(values)} values, {how.length} are declared; "
            'shorten it, or declare "truncate": true'
        )
    filled: Array = np.full(how.length, padding, values.dtype)
    filled[: len(values)] = values[: how.length]
    return filled


def _truth(path: Path, index: int, name: str, value: Any) -> Any:
    kind = _TRUTH_TYPES[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = "a whole number" if kind is int else "a text"
        raise LabelsError(f"{path}: line {index + 1}: `{name}` must be {wanted}, found {value!r:.80}")
    return value
