"""The port through which the store touches a disk, and the operating system behind it.

Every call is one boundary: a kill can come before or after it, a loss of power can undo what was not synced.
All calls raise `StorageFullError` or `StorageFaultError`, never `OSError`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from packhorse_agent.store.errors import storage_error

_NO_PREALLOCATION = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class FileFacts:
    """Size and last change of a file; a folder has size 0."""

    size_bytes: int
    modified_ns: int


class Files(Protocol):
    """What the store needs from a file system."""

    def create(self, path: Path, mode: int) -> int:
        """Open for reading and writing, emptied, with exactly the rights `mode`; returns a handle."""

    def open(self, path: Path) -> int:
        """Open an existing file for reading and writing; returns a handle."""

    def read(self, handle: int, size_bytes: int, offset: int) -> bytes:
        """At most `size_bytes` from `offset`; fewer only at the end of the file."""

    def write(self, handle: int, data: bytes, offset: int) -> None:
        """All of `data` at `offset`."""

    def reserve(self, handle: int, size_bytes: int) -> None:
        """Give the file its size in bytes and the space for it; new bytes read as zero."""

    def begin_sync(self, handle: int, offset: int, size_bytes: int) -> None:
        """Begin to write a range to the disk without waiting: a hint, so that a later `sync` is short."""

    def sync(self, handle: int) -> None:
        """Return once the file's content survives a loss of power."""

    def close(self, handle: int) -> None:
        """Give the handle back."""

    def rename(self, source: Path, target: Path) -> None:
        """Put `source` in place of `target`, at once."""

    def remove(self, path: Path) -> None:
        """Remove a file; one that is not there is no error."""

    def make_folder(self, path: Path) -> None:
        """Make a folder and its parents; one that is there is no error."""

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder; one that is not there is no error."""

    def sync_folder(self, path: Path) -> None:
        """Return once the names in a folder survive a loss of power."""

    def entries(self, path: Path) -> list[str]:
        """Sorted names in a folder; none when it is not there."""

    def facts(self, path: Path) -> FileFacts | None:
        """Size and last change; None when nothing is there."""

    def free_bytes(self, path: Path) -> int:
        """Space that is left for an unprivileged writer, in bytes."""


class OsFiles:
    """`Files` on the machine's own file system."""

    def create(self, path: Path, mode: int) -> int:
        """See `Files.create`; a symbolic link in the place is refused."""
        with _translated(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            os.fchmod(handle, mode)
            return handle

    def open(self, path: Path) -> int:
        """See `Files.open`."""
        with _translated(path):
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def read(self, handle: int, size_bytes: int, offset: int) -> bytes:
        """See `Files.read`."""
        with _translated(handle):
            parts: list[bytes] = []
            while size_bytes > 0 and (part := os.pread(handle, size_bytes, offset)):
                parts.append(part)
                size_bytes -= len(part)
                offset += len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, handle: int, data: bytes, offset: int) -> None:
        """See `Files.write`."""
        with _translated(handle):
            view = memoryview(data)
            while view:
                written = os.pwrite(handle, view, offset)
                view = view[written:]
                offset += written

    def reserve(self, handle: int, size_bytes: int) -> None:
        """See `Files.reserve`; where the file system cannot preallocate, the free space is compared."""
        with _translated(handle):
            if size_bytes == 0:
                return
            try:
                os.posix_fallocate(handle, 0, size_bytes)
            except OSError as error:
                if error.errno not in _NO_PREALLOCATION:
                    raise
                _grow(handle, size_bytes)

    def begin_sync(self, handle: int, offset: int, size_bytes: int) -> None:
        """See `Files.begin_sync`; what is not written yet stays in memory (Linux: mm/fadvise.c)."""
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(handle, offset, size_bytes, os.POSIX_FADV_DONTNEED)

    def sync(self, handle: int) -> None:
        """See `Files.sync`; `fdatasync` writes the size too."""
        with _translated(handle):
            os.fdatasync(handle)

    def close(self, handle: int) -> None:
        """See `Files.close`."""
        with _translated(handle):
            os.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        """See `Files.rename`."""
        with _translated(target):
            source.replace(target)

    def remove(self, path: Path) -> None:
        """See `Files.remove`."""
        with _translated(path):
            path.unlink(missing_ok=True)

    def make_folder(self, path: Path) -> None:
        """See `Files.make_folder`."""
        with _translated(path):
            path.mkdir(parents=True, exist_ok=True)

    def remove_folder(self, path: Path) -> None:
        """See `Files.remove_folder`."""
        with _translated(path), contextlib.suppress(FileNotFoundError):
            path.rmdir()

    def sync_folder(self, path: Path) -> None:
        """See `Files.sync_folder`."""
        with _translated(path):
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def entries(self, path: Path) -> list[str]:
        """See `Files.entries`."""
        with _translated(path):
            try:
                return sorted(os.listdir(path))  # noqa: PTH208 - names are wanted, not paths
            except FileNotFoundError:
                return []

    def facts(self, path: Path) -> FileFacts | None:
        """See `Files.facts`."""
        with _translated(path):
            try:
                status = path.stat()
            except FileNotFoundError:
                return None
            return FileFacts(0 if stat.S_ISDIR(status.st_mode) else status.st_size, status.st_mtime_ns)

    def free_bytes(self, path: Path) -> int:
        """See `Files.free_bytes`."""
        with _translated(path):
            space = os.statvfs(path)
            return space.f_bavail * space.f_frsize


OS_FILES = OsFiles()
"""The one instance; it has no state."""


def _grow(handle: int, size_bytes: int) -> None:
    space = os.fstatvfs(handle)
    if space.f_bavail * space.f_frsize < size_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(handle, size_bytes)


@contextlib.contextmanager
def _translated(what: Path | int) -> Iterator[None]:
    """Errors of the system as the store's; `what` is a path or the descriptor of an open file."""
    try:
        yield
    except OSError as error:
        name = _name_of(what) if isinstance(what, int) else str(what)
        raise storage_error(error, name) from error


def _name_of(handle: int) -> str:
    """The path of an open file, for people; not every system tells it (Linux: proc(5))."""
    try:
        return str(Path(f"/proc/self/fd/{handle}").readlink())
    except OSError:
        return "a file"
