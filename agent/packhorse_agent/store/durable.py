"""Whole small files that survive a kill and a loss of power: the old content or the new, never a mix."""

from __future__ import annotations

import contextlib
from pathlib import Path

from packhorse_agent.errors import EnvironmentFaultError
from packhorse_agent.store.files import OS_FILES, Files

SCRATCH_PREFIX = "."
SCRATCH_SUFFIX = ".tmp"


def write_durable(path: Path, data: bytes, mode: int = 0o644, files: Files = OS_FILES) -> None:
    """Replace `path` by `data`: write beside it, sync, rename, sync the folder (which must exist).

    One writer at a time for one path. On failure the old content stays and no scratch file is left.

    Raises:
        StorageFullError: no space.
        StorageFaultError: the disk or its rights do not allow it.
    """
    scratch = path.with_name(f"{SCRATCH_PREFIX}{path.name}{SCRATCH_SUFFIX}")
    try:
        _write_synced(scratch, data, mode, files)
        files.rename(scratch, path)
    except EnvironmentFaultError:
        with contextlib.suppress(EnvironmentFaultError):
            files.remove(scratch)
        raise
    files.sync_folder(path.parent)


def remove_durable(path: Path, files: Files = OS_FILES) -> None:
    """Remove a file so that it stays removed after a loss of power; one that is not there is no error.

    Raises:
        StorageFaultError: the disk or its rights do not allow it.
    """
    files.remove(path)
    files.sync_folder(path.parent)


def sweep_scratch(folder: Path, files: Files = OS_FILES) -> None:
    """Remove the scratch files that a kill left in `folder`.

    Raises:
        StorageFaultError: the disk or its rights do not allow it.
    """
    for name in files.entries(folder):
        if name.startswith(SCRATCH_PREFIX) and name.endswith(SCRATCH_SUFFIX):
            files.remove(folder / name)


def _write_synced(path: Path, data: bytes, mode: int, files: Files) -> None:
    handle = files.create(path, mode)
    try:
        files.write(handle, data, 0)
        files.sync(handle)
    finally:
        files.close(handle)
