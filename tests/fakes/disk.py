"""Disks that die, fill up, fail or lose power at a chosen moment, behind the store's own port."""

from __future__ import annotations

import errno
from pathlib import Path

from packhorse_agent.store.errors import StorageFaultError, StorageFullError
from packhorse_agent.store.files import OsFiles


class Killed(BaseException):
    """The process is gone; nothing may catch this."""


class FastFiles(OsFiles):
    """Without the waiting: a kill, unlike a loss of power, forgets nothing that was written."""

    def sync(self, handle: int) -> None:
        """Nothing to wait for."""

    def sync_folder(self, path: Path) -> None:
        """Nothing to wait for."""


class MortalFiles(FastFiles):
    """Dies before the call number `dies_at` that changes something; a write leaves half of its data."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at = dies_at
        self.changes = 0

    def _change(self) -> None:
        self.changes += 1
        if self.dies_at is not None and self.changes >= self.dies_at:
            raise Killed

    def create(self, path: Path, mode: int) -> int:
        self._change()
        return super().create(path, mode)

    def write(self, handle: int, data: bytes, offset: int) -> None:
        try:
            self._change()
        except Killed:
            super().write(handle, data[: len(data) // 2], offset)
            raise
        super().write(handle, data, offset)

    def sync(self, handle: int) -> None:
        self._change()

    def rename(self, source: Path, target: Path) -> None:
        self._change()
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self._change()
        super().remove(path)

    def sync_folder(self, path: Path) -> None:
        self._change()


class FullFiles(FastFiles):
    """Takes no new file while `free_files` is 0; a new one uses one up, a removed one gives it back."""

    def __init__(self, free_files: int) -> None:
        self.free_files = free_files

    def create(self, path: Path, mode: int) -> int:
        if self.free_files <= 0:
            raise StorageFullError(f"{path}: No space left on device")
        self.free_files -= 1
        return super().create(path, mode)

    def rename(self, source: Path, target: Path) -> None:
        if target.exists():
            self.free_files += 1
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        if path.exists():
            self.free_files += 1
        super().remove(path)


class BrokenFiles(FastFiles):
    """Once `broken`, every change fails with EROFS, as a worn-out card that went read-only."""

    broken = False

    def create(self, path: Path, mode: int) -> int:
        self._check(path)
        return super().create(path, mode)

    def remove(self, path: Path) -> None:
        self._check(path)
        super().remove(path)

    def _check(self, path: Path) -> None:
        if self.broken:
            raise StorageFaultError(f"{path}: Read-only file system", errno.EROFS)


class ForgetfulFiles(FastFiles):
    """`lose_power` brings back every file that was removed since its folder was last synced."""

    def __init__(self) -> None:
        self._removed: dict[Path, bytes] = {}

    def remove(self, path: Path) -> None:
        if path.exists():
            self._removed[path] = path.read_bytes()
        super().remove(path)

    def sync_folder(self, path: Path) -> None:
        self._removed = {file: data for file, data in self._removed.items() if file.parent != path}

    def lose_power(self) -> None:
        for path, data in self._removed.items():
            path.write_bytes(data)
        self._removed.clear()
