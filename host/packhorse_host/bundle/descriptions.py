"""The label and preprocessing descriptions that travel with a model, checked against it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_host.bundle.errors import DescriptionError

DESCRIPTION_MAX_BYTES: Final = 1024 * 1024


def read_labels(path: Path, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Read label names, one a line in UTF-8, in the order of the first output's last axis.

    Raises:
        DescriptionError: no such file, not text, an empty line, or not one name for each class.
    """
    names = tuple(line.strip() for line in _read_text(path).splitlines())
    if not names:
        raise DescriptionError(f"{path}: empty; one label a line is expected")
    if "" in names:
        raise DescriptionError(f"{path}: line {names.index('') + 1} is empty; one label a line is expected")
    classes = outputs[0].shape[-1]
    if classes not in (-1, len(names)):
        raise DescriptionError(
            f"{path}: expected {classes} labels, as many as `{outputs[0].name}` has classes; "
            f"found {len(names)}"
        )
    return names


def encode_labels(names: Sequence[str]) -> bytes:
    """The labels artifact: UTF-8, one name a line."""
    return "".join(f"{name}\n" for name in names).encode()


def read_preprocessing(path: Path, inputs: Sequence[TensorSpec]) -> bytes:
    """Read a preprocessing description: one JSON object; `input`, where it is there, names a model input.

    Raises:
        DescriptionError: no such file, not a JSON object, or about an input that the model does not have.
    """
    text = _read_text(path)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DescriptionError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DescriptionError(f"{path}: a JSON object is expected, found a {type(content).__name__}")
    names = [spec.name for spec in inputs]
    if content.get("input", names[0]) not in names:
        raise DescriptionError(
            f"{path}: describes the input `{content['input']}`, the model has {', '.join(names)}"
        )
    return text.encode()


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(DESCRIPTION_MAX_BYTES + 1)
        if len(data) > DESCRIPTION_MAX_BYTES:
            raise DescriptionError(f"{path}: larger than {DESCRIPTION_MAX_BYTES} bytes")
        return data.decode()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DescriptionError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise DescriptionError(f"{path}: is a folder, a file is expected") from error
    except UnicodeDecodeError as error:
        raise DescriptionError(f"{path}: not UTF-8 text") from error
