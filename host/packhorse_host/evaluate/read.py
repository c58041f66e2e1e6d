"""Calibration and evaluation sets from what a path names: a file, or a folder of files of one kind.

| path | samples |
|---|---|
| `.npz`, or a folder of them | arrays as they are, file after file by name |
| a folder of images | one image a sample, by name, preprocessed as declared |
| a folder of `.wav` | frames, file after file by name, cut as declared |
| `.jsonl` | one object of token lists a sample, padded as declared |
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.errors import BadInputError
from packhorse_host.evaluate.errors import DataError, DataMismatchError, LabelsError
from packhorse_host.evaluate.metrics.base import Truth
from packhorse_host.evaluate.preprocessing import Preprocessing, parse_preprocessing
from packhorse_host.evaluate.samples import LabelledSamples, Samples
from packhorse_host.evaluate.sources.images import IMAGE_SUFFIXES, open_images
from packhorse_host.evaluate.sources.jsonl import open_jsonl
from packhorse_host.evaluate.sources.npz import Column, NpzSamples, read_arrays, read_columns
from packhorse_host.evaluate.sources.wav import open_wavs

LABELS: Final = "labels"
TRUTH_NAMES: Final = (LABELS, "boxes", "classes", "box_counts", "texts")
"""Arrays that are truth unless the model has an input of this name; `truth.NAME` always is."""
TRUTH_PREFIX: Final = "truth."
TRUTH_FILE: Final = "truth.npz"
"""In a folder of images or sound: the truth of its samples, in the order of the file names."""
_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "npz": (".npz",),
    "images": IMAGE_SUFFIXES,
    "wav": (".wav",),
}


def read_calibration(
    path: Path, inputs: Sequence[TensorSpec], preprocessing: Preprocessing | None = None
) -> Samples:
    """Open calibration data, and read all of it once to check it; truth in it is ignored.

    Args:
        path: see the module.
        inputs: of the model.
        preprocessing: how images, sound or tokens become inputs.

    Raises:
        DataError: missing, damaged, empty, or holds a number that is not finite.
        DataMismatchError: names, shapes or types are not those of the model.
    """
    samples, _ = _open(path, inputs, preprocessing, wants_truth=False)
    _ = samples.sha256
    return samples


def read_evaluation(
    path: Path,
    inputs: Sequence[TensorSpec],
    preprocessing: Preprocessing | None = None,
    needs: Collection[str] = (LABELS,),
) -> LabelledSamples:
    """Open an evaluation set, and read all of it once to check it.

    Args:
        path: see the module.
        inputs: of the model.
        preprocessing: how images, sound or tokens become inputs.
        needs: names of truth that must be there, as the metric says (`registry.needed_truth`).

    Raises:
        DataError: missing, damaged, empty, or holds a number that is not finite.
        DataMismatchError: names, shapes or types are not those of the model.
        LabelsError: truth is missing, or not one for each sample.
    """
    samples, arrays = _open(path, inputs, preprocessing, wants_truth=True)
    missing = [name for name in needs if name not in arrays]
    if missing:
        raise LabelsError(f"{path}: no array `{missing[0]}`; found {_listed([*_names(inputs), *arrays])}")
    for name, array in arrays.items():
        _check_truth(path, name, array, samples.count)
    if LABELS in arrays:
        arrays[LABELS] = arrays[LABELS].astype(np.int64)
    labelled = LabelledSamples(samples, Truth(samples.count, arrays))
    _ = labelled.sha256
    return labelled


def read_preprocessing(path: Path | None, *data: Path | None) -> Preprocessing | None:
    """The description in `path`, if there is one and some of the data are made into inputs by it.

    Raises:
        BadInputError: it cannot be read, or means nothing.
    """
    if path is None or not any(each is not None and _is_made(each) for each in data):
        return None
    try:
        return parse_preprocessing(path.read_bytes(), str(path))
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error


def _is_made(path: Path) -> bool:
    return path.suffix == ".jsonl" or (path.is_dir() and _files(path)[0] != "npz")


def _open(
    path: Path, inputs: Sequence[TensorSpec], preprocessing: Preprocessing | None, *, wants_truth: bool
) -> tuple[Samples, dict[str, Array]]:
    if path.suffix == ".jsonl" and not path.is_dir():
        names = TRUTH_NAMES if wants_truth else ()
        return open_jsonl(path, inputs, preprocessing, [name for name in names if name not in _names(inputs)])
    if not path.is_dir():
        return _open_npz(path, [path], inputs)
    kind, files = _files(path)
    if kind == "npz":
        return _open_npz(path, files, inputs)
    opened = (open_images if kind == "images" else open_wavs)(path, files, inputs, preprocessing)
    truth = path / TRUTH_FILE
    if not wants_truth or not truth.exists():
        return opened, {}
    arrays = read_arrays(truth, read_columns(truth).values())
    return opened, {_truth_name(name): array for name, array in arrays.items()}


def _files(folder: Path) -> tuple[str, list[Path]]:
    """The kind of files in a folder, and the files by name."""
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        for kind, suffixes in _KINDS.items():
            if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file():
                found.setdefault(kind, []).append(file)
    if found.keys() - {"npz"} and [file.name for file in found.get("npz", [])] == [TRUTH_FILE]:
        del found["npz"]
    if not found:
        raise DataError(f"{folder}: no .npz file, image or .wav file in this folder")
    if len(found) > 1:
        raise DataError(f"{folder}: files of one kind are expected, found {' and '.join(sorted(found))}")
    return next(iter(found.items()))


def _open_npz(
    where: Path, files: Sequence[Path], inputs: Sequence[TensorSpec]
) -> tuple[Samples, dict[str, Array]]:
    columns = [read_columns(file) for file in files]
    for file, found in zip(files, columns, strict=True):
        names = {name for name in found if not _is_truth(name, inputs)}
        if names != set(_names(inputs)):
            raise DataMismatchError(f"{file}: expected {_listed(_names(inputs))}, found {_listed(names)}")
    samples = NpzSamples(where, inputs, columns)
    parts = [_truth_of(file, found, inputs) for file, found in zip(files, columns, strict=True)]
    if len({frozenset(part) for part in parts}) != 1:
        raise LabelsError(f"{where}: the files do not all hold the same truth")
    return samples, {name: _joined(where, name, [part[name] for part in parts]) for name in parts[0]}


def _truth_of(file: Path, columns: dict[str, Column], inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    wanted = [column for name, column in columns.items() if _is_truth(name, inputs)]
    arrays = read_arrays(file, wanted) if wanted else {}
    return {_truth_name(name): array for name, array in arrays.items()}


def _joined(where: Path, name: str, arrays: Sequence[Array]) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    if len({array.shape[1:] for array in arrays}) != 1 or not arrays[0].ndim:
        raise LabelsError(f"{where}: `{name}` has another shape in each file")
    return np.concatenate(arrays)


def _is_truth(name: str, inputs: Sequence[TensorSpec]) -> bool:
    return name.startswith(TRUTH_PREFIX) or (name in TRUTH_NAMES and name not in _names(inputs))


def _truth_name(name: str) -> str:
    return name.removeprefix(TRUTH_PREFIX)


def _check_truth(path: Path, name: str, array: Array, count: int) -> None:
    if name == LABELS and array.dtype.kind not in "iu":
        raise LabelsError(f"{path}: `{LABELS}` must be integers, found {array.dtype}")
    fits = array.shape == (count,) if name == LABELS else array.shape[:1] == (count,)
    if not fits:
        shape = f"[{count}]" if name == LABELS else f"[{count}, ...]"
        raise LabelsError(
            f"{path}: `{name}` must have one row for each sample: expected shape {shape}, "
            f"found {list(array.shape)}"
        )


def _names(inputs: Sequence[TensorSpec]) -> list[str]:
    return [spec.name for spec in inputs]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "nothing"
