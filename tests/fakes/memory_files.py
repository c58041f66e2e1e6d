"""A file system in memory that can be killed or lose its power at any boundary, which no machine here can.

It keeps what a process sees apart from what is on the platter: content by `sync`, names by `sync_folder`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from packhorse_agent.store.errors import StorageFaultError, StorageFullError
from packhorse_agent.store.files import FileFacts


class Killed(BaseException):
    """The process ends here; no handler may run as if it did not."""


@dataclass
class _Node:
    data: bytearray = field(default_factory=bytearray)
    durable: bytes | None = None
    mode: int = 0
    modified_ns: int = 0


@dataclass(frozen=True)
class PowerLoss:
    """What a loss of power does to that which was not synced."""

    keeps_names: bool
    keeps_data: Callable[[Path], bool]
    unwritten_is_empty: bool = False
    """A file that was never synced: empty, or zeros of its size."""


class MemoryFiles:
    """`Files` in memory. `calls` counts the effects; the one numbered `kill_at` is the last."""

    def __init__(self, root: Path, capacity_bytes: int = 1 << 30) -> None:
        self.capacity_bytes = capacity_bytes
        self.calls = 0
        self.kill_at: int | None = None
        self.tears_writes = False
        self._names: dict[Path, _Node] = {}
        self._durable_names: dict[Path, _Node] = {}
        self._folders = {root, *root.parents}
        self._durable_folders = set(self._folders)
        self._handles: dict[int, _Node] = {}
        self._clock_ns = 0

    @property
    def open_handles(self) -> int:
        """Handles that nobody closed."""
        return len(self._handles)

    def restart(self) -> None:
        """A new process on the same machine: all that was written is there."""
        self._handles.clear()
        self.kill_at = None
        self.calls = 0

    def lose_power(self, loss: PowerLoss) -> None:
        """A new start of the machine."""
        self.restart()
        names = self._names if loss.keeps_names else self._durable_names
        folders = self._folders if loss.keeps_names else self._durable_folders
        for path, node in names.items():
            if not loss.keeps_data(path):
                blank = b"" if loss.unwritten_is_empty else bytes(len(node.data))
                node.data = bytearray(blank if node.durable is None else node.durable)
            node.durable = bytes(node.data)
        self._folders = set(folders)
        self._durable_folders = set(folders)
        self._names = {path: node for path, node in names.items() if path.parent in folders}
        self._durable_names = dict(self._names)

    def create(self, path: Path, mode: int) -> int:
        def effect() -> int:
            if path.parent not in self._folders:
                raise StorageFaultError(f"{path}: no such folder", errno.ENOENT)
            node = self._names.setdefault(path, _Node())
            node.data.clear()
            node.mode = mode
            self._touch(node)
            return self._handle(node)

        return self._effect(effect)

    def open(self, path: Path) -> int:
        if path not in self._names:
            raise StorageFaultError(f"{path}: no such file", errno.ENOENT)
        return self._handle(self._names[path])

    def read(self, handle: int, size_bytes: int, offset: int) -> bytes:
        return bytes(self._handles[handle].data[offset : offset + size_bytes])

    def write(self, handle: int, data: bytes, offset: int) -> None:
        node = self._handles[handle]

        def effect(part: bytes = data) -> None:
            self._grow(node, offset + len(part))
            node.data[offset : offset + len(part)] = part
            self._touch(node)

        if self.tears_writes and self.kill_at == self.calls:
            effect(data[: len(data) // 2])
        self._effect(effect)

    def reserve(self, handle: int, size_bytes: int) -> None:
        self._effect(lambda: self._grow(self._handles[handle], size_bytes))

    def begin_sync(self, handle: int, offset: int, size_bytes: int) -> None:
        """No effect: what was only begun is lost with the power."""

    def sync(self, handle: int) -> None:
        node = self._handles[handle]

        def effect() -> None:
            node.durable = bytes(node.data)

        self._effect(effect)

    def close(self, handle: int) -> None:
        del self._handles[handle]

    def rename(self, source: Path, target: Path) -> None:
        def effect() -> None:
            self._names[target] = self._names.pop(source)

        self._effect(effect)

    def remove(self, path: Path) -> None:
        self._effect(lambda: self._names.pop(path, None))

    def make_folder(self, path: Path) -> None:
        self._effect(lambda: self._folders.update((path, *path.parents)))

    def remove_folder(self, path: Path) -> None:
        def effect() -> None:
            if self.entries(path):
                raise StorageFaultError(f"{path}: not empty", errno.ENOTEMPTY)
            self._folders.discard(path)

        self._effect(effect)

    def sync_folder(self, path: Path) -> None:
        def effect() -> None:
            for known in [name for name in self._durable_names if name.parent == path]:
                del self._durable_names[known]
            inside = {name: node for name, node in self._names.items() if name.parent == path}
            self._durable_names.update(inside)
            gone = {folder for folder in self._durable_folders - self._folders if folder.parent == path}
            self._durable_folders -= gone
            self._durable_folders |= {folder for folder in self._folders if folder.parent == path}

        self._effect(effect)

    def entries(self, path: Path) -> list[str]:
        return sorted(entry.name for entry in {*self._names, *self._folders} if entry.parent == path)

    def facts(self, path: Path) -> FileFacts | None:
        if path in self._folders:
            return FileFacts(0, 0)
        node = self._names.get(path)
        return FileFacts(len(node.data), node.modified_ns) if node else None

    def free_bytes(self, path: Path) -> int:
        return self.capacity_bytes - sum(len(node.data) for node in self._names.values())

    def content(self, path: Path) -> bytes:
        """What a reader of `path` sees now."""
        return bytes(self._names[path].data)

    def mode(self, path: Path) -> int:
        """The rights of a file."""
        return self._names[path].mode

    def damage(self, path: Path, offset: int) -> None:
        """Flip a bit, as a worn-out disk does."""
        self._names[path].data[offset] ^= 1

    def put(self, path: Path, data: bytes) -> None:
        """Leave a file behind, synced, as something else wrote it."""
        self._folders.update(path.parents)
        self._names[path] = _Node(bytearray(data), bytes(data))

    def _effect(self, effect: Callable[[], object]) -> int:
        if self.kill_at is not None and self.calls >= self.kill_at:
            raise Killed
        self.calls += 1
        done = effect()
        return done if isinstance(done, int) else 0

    def _grow(self, node: _Node, size_bytes: int) -> None:
        more = size_bytes - len(node.data)
        if more > self.free_bytes(Path()):
            raise StorageFullError("no space left")
        node.data.extend(bytes(max(0, more)))

    def _handle(self, node: _Node) -> int:
        handle = max(self._handles, default=2) + 1
        self._handles[handle] = node
        return handle

    def _touch(self, node: _Node) -> None:
        self._clock_ns += 1
        node.modified_ns = self._clock_ns
