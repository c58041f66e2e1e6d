"""TOML files that people write: read, check against a model, and say clearly what is wrong.

Profiles and the agent's configuration come in here; the contract's models stay free of I/O.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from packhorse_agent.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOML_MAX_BYTES: Final = 256 * 1024
"""A file that people write is not larger."""

M = TypeVar("M", bound=BaseModel)
_Location = tuple[int | str, ...]

_WRONG_TYPE = {
    "bool_type": "must be true or false",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "model_type": "must be a table",
    "path_type": "must be text in quotes",
    "string_type": "must be text in quotes",
    "tuple_type": "must be a list in square brackets",
    "dict_type": "must be a table",
}


def read_toml(path: Path, model: type[M], advice: Mapping[str, str] = MappingProxyType({})) -> M:
    """Read a TOML file into `model`; types are taken strictly, a number in quotes is no number.

    `advice` says, by key, what to add where that key is missing.

    Raises:
        ConfigError: no such file, not readable, not TOML, an unknown key (with the nearest right one), a
            missing key or a wrong value; all faults of one file are listed.
    """
    content = json.dumps(parse_toml(path), default=str)
    try:
        return model.model_validate_json(content, strict=True)
    except ValidationError as error:
        lines = [_explain(detail, model, advice) for detail in _causes(error)]
        raise ConfigError(f"{path}: " + f"\n  {path}: ".join(lines)) from error


def parse_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as plain tables.

    Raises:
        ConfigError: no such file, not readable, too large, or not TOML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(TOML_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > TOML_MAX_BYTES:
        raise ConfigError(f"{path}: larger than {TOML_MAX_BYTES} bytes")
    try:
        content: dict[str, Any] = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not TOML: not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return content


def nearest(word: str, choices: list[str]) -> str:
    """The choice that `word` was most likely meant to be, as text to append; empty when none is near."""
    import difflib  # an agent whose configuration is right never needs it

    near = difflib.get_close_matches(word.lower(), choices, n=1, cutoff=0.5)
    return f'; did you mean "{near[0]}"?' if near else ""


def _causes(error: ValidationError) -> list[ErrorDetails]:
    """All details but those that only follow from one further inside (a list that lost its bad element)."""
    details = error.errors(include_url=False)
    inner = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
    return [detail for detail in details if detail["loc"] not in inner or detail["type"] == "model_type"]


def _explain(detail: ErrorDetails, model: type[BaseModel], advice: Mapping[str, str]) -> str:
    location, kind = detail["loc"], detail["type"]
    where, value = _dotted(location), detail["input"]
    if kind == "extra_forbidden":
        known = list(_fields_at(model, location[:-1]))
        hint = nearest(str(location[-1]), known) or f"; known keys: {', '.join(sorted(known))}"
        return f'unknown key "{where}"{hint}'
    if kind == "missing":
        hint = f"; {advice[where]}" if where in advice else ""
        return f'key "{where}" is missing{hint}'
    if kind == "literal_error":
        choices = [str(choice) for choice in _choices_at(model, location)]
        hint = nearest(str(value), choices) or f"; one of: {', '.join(choices)}"
        return f"{where} = {_toml(value)} is none of the known values{hint}"
    if kind in _WRONG_TYPE:
        return f"{where} = {_toml(value)}: {_WRONG_TYPE[kind]}"
    if kind == "string_pattern_mismatch":
        return f"{where}: {_toml(value)} does not have the form {detail['ctx']['pattern']}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if isinstance(value, dict) else f"{where} = {_toml(value)}: {message}"


def _dotted(location: _Location) -> str:
    text = ""
    for part in location:
        if part != "[key]":  # the name of a table with free names, which stands before it
            text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fields_at(model: type[BaseModel], location: _Location) -> set[str]:
    found = _annotation_at(model, location)
    return set(found.model_fields) if isinstance(found, type) and issubclass(found, BaseModel) else set()


def _choices_at(model: type[BaseModel], location: _Location) -> tuple[Any, ...]:
    found = _annotation_at(model, location)
    return get_args(found) if get_origin(found) is Literal else ()


def _annotation_at(model: type[BaseModel], location: _Location) -> Any:
    """What stands at `location`: a model class, or the annotation of a plain value."""
    here: Any = model
    for part in location:
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(part))
            here = _bare(field.annotation) if field else None
        else:  # an element of a tuple, or a value of a table with free keys
            inner = [_bare(argument) for argument in get_args(here) if argument is not Ellipsis]
            here = inner[-1] if inner else None
    return here


def _bare(annotation: Any) -> Any:
    """Strip `Annotated[...]` and `... | None`."""
    if hasattr(annotation, "__metadata__"):
        return _bare(annotation.__origin__)
    arguments = get_args(annotation)
    if type(None) in arguments:
        return _bare(next(argument for argument in arguments if argument is not type(None)))
    return annotation
