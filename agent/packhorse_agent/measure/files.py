"""Small files of the kernel, read through a port so that tests can replay traces and inject errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from packhorse_agent.errors import EnvironmentFaultError

ReadText = Callable[[Path], str]
"""The content of a small file; raises `OSError`."""


class ReadFailedError(EnvironmentFaultError):
    """A figure could not be read this time; the next time it may well be. `errno` is None for no number."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.errno = code


def read_text(path: Path) -> str:
    """The content of a small text file; raises `OSError`."""
    return path.read_text(encoding="ascii", errors="replace")


def read_optional(path: Path, read: ReadText) -> str | None:
    """The stripped content of a file that may be missing or unreadable."""
    try:
        return read(path).strip()
    except OSError:
        return None


def read_number(path: Path, read: ReadText) -> int:
    """A decimal number from a file.

    Raises:
        ReadFailedError: the file cannot be read now, or holds no number.
    """
    try:
        text = read(path)
    except OSError as error:
        raise ReadFailedError(f"{path.name}: {error.strerror or error}", error.errno) from error
    try:
        return int(text)
    except ValueError as error:
        raise ReadFailedError(f"{path.name} holds no number: {text[:40]!r}") from error
