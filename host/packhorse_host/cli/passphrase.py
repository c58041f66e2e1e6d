"""Where the passphrase of the offline keys comes from: a file, the environment, or the person."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from packhorse_host.errors import ConfigError

PASSPHRASE_VARIABLE = "PACKHORSE_PASSPHRASE"  # noqa: S105 - the name of a variable

PassphraseFileOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help=f"Its first line opens the offline keys; else ${PASSPHRASE_VARIABLE}, else it is asked for.",
        show_default=False,
    ),
]
"""`passphrase_file: PassphraseFileOption = None` in a command's signature."""


def passphrase_source(file: Path | None) -> Callable[[str], str]:
    """An `Ask` that gets the passphrase once, when the first encrypted key needs it.

    Raises (when it is called):
        ConfigError: the file cannot be read or is empty, or there is nobody to ask.
    """
    known: list[str] = []

    def ask(_key: str) -> str:
        if not known:
            known.append(_given(file) or _prompt("Passphrase of the offline keys", confirm=False))
        return known[0]

    return ask


def new_passphrase(file: Path | None) -> str:
    """The passphrase for keys that are going to be made; a person types it twice.

    Raises:
        ConfigError: see `passphrase_source`.
    """
    return _given(file) or _prompt("New passphrase for the offline keys", confirm=True)


def _given(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(PASSPHRASE_VARIABLE) or None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the passphrase file {file} cannot be read: {error}") from error
    if not lines or not lines[0]:
        raise ConfigError(f"the passphrase file {file} has an empty first line")
    return lines[0]


def _prompt(text: str, *, confirm: bool) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(
            f"no passphrase for the offline keys: give `--passphrase-file`, set ${PASSPHRASE_VARIABLE}, "
            "or make the workspace with `--unencrypted-keys`"
        )
    answer: str = typer.prompt(text, hide_input=True, confirmation_prompt=confirm, err=True)
    return answer
