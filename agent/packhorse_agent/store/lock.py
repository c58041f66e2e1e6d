"""One process a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType

from packhorse_agent.errors import ConflictError
from packhorse_agent.store.errors import storage_error


class FolderLock:
    """An advisory lock on a file, held until `release` or the end of the process, however it ends.

    The file holds the process id of the holder and is never removed: removing it would let two hold it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock, or say who has it; taking it twice through one object is no error.

        Raises:
            ConflictError: another process holds it.
            StorageFaultError: the file cannot be made.
        """
        if self._handle is not None:
            return
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise storage_error(error, str(self._path)) from error
        try:
            self._lock(handle)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle

    def release(self) -> None:
        """Give the lock back; one that is not held is no error."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def _lock(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            text = f"{self._path.parent} is in use by process {holder}; stop it first ({self._path.name})"
            raise ConflictError(text) from error
        except OSError as error:
            raise storage_error(error, str(self._path)) from error
        # Who holds it is a courtesy: a full disk must not keep the agent from starting.
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
