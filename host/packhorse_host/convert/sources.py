"""What a person hands in to be converted, and how its kind is recognised."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_host.convert.model import FORMATS, FloatModel
from packhorse_host.errors import BadInputError, ConfigError

SourceKind = Literal[
    "onnx", "tflite", "keras", "saved-model", "torch-exported", "torch-module", "state-dict", "torch-pickle"
]

_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_ZIP: Final = b"PK\x03\x04"
_TFLITE: Final = b"TFL3"
_HEAD_BYTES: Final = 16


@dataclass(frozen=True)
class Source:
    """A model as it came, of a known kind."""

    kind: SourceKind
    path: Path
    """A file, or a folder for a SavedModel; the Python file for a module."""
    reference: str | None = None
    """`FILE.py:NAME` of the class or function that makes the PyTorch module, where one is needed."""
    inputs: tuple[TensorSpec, ...] = ()
    """What the model takes, where its file does not say; for ONNX, lengths for axes that are free."""


def recognise(
    path: Path, *, reference: str | None = None, inputs: tuple[TensorSpec, ...] = (), pickled: bool = False
) -> Source:
    """The kind of a source, by its content.

    Args:
        path: a model file, the folder of a SavedModel, or `FILE.py:NAME` for a module in Python.
        reference: `FILE.py:NAME` of the class that the weights in a `.pth` file belong to.
        inputs: what the model takes, where its file does not say.
        pickled: the file holds a whole Python object, and the person who gave it wants it loaded.

    Raises:
        BadInputError: no such file, or of a kind that nothing here reads.
        ConfigError: weights without their class.
    """
    if path.suffix != ".py" and ".py:" in path.name:
        resolved = _resolved(str(path))
        return Source("torch-module", Path(resolved.rpartition(":")[0]), resolved, inputs)
    _check_exists(path)
    made_by = _resolved(reference) if reference else None
    found = Source(_kind(path), path.resolve(), made_by, inputs)
    if found.kind != "state-dict":
        return found
    if pickled:
        return replace(found, kind="torch-pickle")
    if made_by is None:
        raise ConfigError(
            f"{path}: weights of PyTorch say nothing about the network: name its class as FILE.py:NAME"
        )
    return found


def parse_input(text: str) -> TensorSpec:
    """An input as people write it, `NAME:DATATYPE:LENGTHS`, such as `image:FP32:*,3,224,224`.

    Raises:
        ConfigError: written otherwise.
    """
    name, _, rest = text.partition(":")
    datatype, _, lengths = rest.partition(":")
    try:
        shape = tuple(-1 if length.strip() == "*" else int(length) for length in lengths.split(","))
        described = {"name": name, "datatype": datatype.upper(), "shape": shape}
        return TensorSpec.model_validate(described)
    except ValueError as error:
        raise ConfigError(
            f"--input {text}: NAME:DATATYPE:LENGTHS is expected, such as image:FP32:*,3,224,224"
        ) from error


def source_sha256(source: Source, model: FloatModel) -> str:
    """Names a source by its content; for ONNX that is taken as it is, with the weights from files beside it.

    A folder's digest is that over `PATH\\0SHA256\\0` of its files by ascending path.
    """
    if source.kind == "onnx" and FORMATS[model.runtime] == "onnx":
        return model.sha256
    if source.path.is_file():
        return _file_sha256(source.path)
    digest = hashlib.sha256()
    for file in sorted(path for path in source.path.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(source.path).as_posix()}\0{_file_sha256(file)}\0".encode())
    return digest.hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while part := file.read(1024**2):
            digest.update(part)
    return digest.hexdigest()


def _resolved(reference: str) -> str:
    file, _, name = reference.rpartition(":")
    if not (file.endswith(".py") and name.isidentifier()):
        raise ConfigError(f"`{reference}`: FILE.py:NAME of a class or function is expected")
    _check_exists(Path(file))
    return f"{Path(file).resolve()}:{name}"


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise BadInputError(f"{path}: no such file")


def _kind(path: Path) -> SourceKind:
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "saved-model"
        raise BadInputError(f"{path}: a folder, but no SavedModel: saved_model.pb is missing")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head[4:8] == _TFLITE:
        return "tflite"
    if head.startswith(_HDF5):
        return "keras"
    if not head.startswith(_ZIP):
        return "onnx"
    archives: dict[str, SourceKind] = {
        ".keras": "keras", ".pt2": "torch-exported", ".pth": "state-dict", ".pt": "state-dict"
    }  # fmt: skip
    kind = archives.get(path.suffix.lower())
    if kind is None:
        raise BadInputError(
            f"{path}: a zip archive whose name does not tell what it holds: {', '.join(archives)} are read"
        )
    return kind
