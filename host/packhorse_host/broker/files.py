"""Private files, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from packhorse_agent.store.errors import storage_error


def make_private_folder(folder: Path) -> None:
    """Make a folder, and its parents, that only its owner may enter; an existing one keeps its mode."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_private(path: Path, text: str) -> None:
    """Replace a file by one with mode 0600; after a power cut it holds the old text or the new one.

    Raises:
        StorageFullError, StorageFaultError: the disk does not take it; the old text stays.
    """
    try:
        _write(path, text)
    except OSError as error:
        raise storage_error(error, str(path)) from error


def _write(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
