"""Writers one after the other, whichever process or thread they are in."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packhorse_agent.store.errors import storage_error
from packhorse_host.repository.errors import BusyRepositoryError

_POLL_S = 0.02


@contextmanager
def writer_lock(path: Path, wait_s: float) -> Iterator[None]:
    """Hold an advisory lock on `path`; it goes with the process, however that ends.

    Raises:
        BusyRepositoryError: another writer held it for `wait_s`.
        StorageFaultError: the file cannot be made.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise storage_error(error, str(path)) from error
    try:
        _wait(handle, path, wait_s)
        yield
    finally:
        os.close(handle)


def _wait(handle: int, path: Path, wait_s: float) -> None:
    end_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= end_s:
                raise BusyRepositoryError(
                    f"another process is writing to {path.parent}; try again"
                ) from error
        time.sleep(_POLL_S)
