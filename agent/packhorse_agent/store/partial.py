"""A blob on its way in: a reserved file, and a bitmap of the chunks in it that were verified.

Every chunk is checked against its digest before it is written, and its bit is set after that. A kill loses
nothing, since both writes are in the page cache. A loss of power may keep a bit without its chunk, so after a
restart every set bit is checked again, in steps (`settle`), before it counts; it may also lose the chunks
since the last `sync`. The whole blob's SHA-256 is computed along the way, so that `complete` seldom has to
read anything.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packhorse_agent.contract.chunks import chunk_count, chunk_size, digest_at
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_agent.errors import ConflictError, EnvironmentFaultError
from packhorse_agent.store.errors import DigestMismatchError, StorageFullError
from packhorse_agent.store.files import Files

SYNC_EVERY_BYTES = 32 * 1024 * 1024
"""At most this much is lost by a loss of power; over a slow link the caller syncs by time."""

BEGIN_SYNC_CHUNKS = 16
"""The disk is set to work on every MiB that is there, so that it works while the next one comes."""

DATA_FILE = "data"
BITMAP_FILE = "bitmap"
_MISSING, _PRESENT, _UNCHECKED = 0, 1, 2


@dataclass(frozen=True)
class PartialPlan:
    """What a partial blob will be, and where it lives meanwhile.

    `digests` are the SHA-256 of its raw chunks, 32 bytes each; `headroom_bytes` must stay free beside it.
    """

    sha256: str
    size_bytes: int
    digests: bytes
    folder: Path
    headroom_bytes: int


class PartialBlob:
    """Chunks of one blob. `keep` moves the finished data file to its place for good."""

    def __init__(
        self,
        plan: PartialPlan,
        files: Files,
        keep: Callable[[PartialPlan, Path], Path],
        released: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._files = files
        self._keep = keep
        self._released = released
        self._count = chunk_count(plan.size_bytes)
        self._states = bytearray(self._count)
        self._bitmap = bytearray(-(-self._count // 8))
        self._handles: tuple[int, int] | None = None
        self._whole = hashlib.sha256()
        self._prefix = 0
        self._present_bytes = 0
        self._unsynced_bytes = 0
        self._open()

    @property
    def sha256(self) -> str:
        """The blob's name."""
        return self._plan.sha256

    @property
    def present_bytes(self) -> int:
        """Verified raw bytes that are in the file."""
        return self._present_bytes

    @property
    def unsynced_bytes(self) -> int:
        """Raw bytes that a loss of power would lose."""
        return self._unsynced_bytes

    def missing(self) -> Sequence[int]:
        """Numbers of the chunks that have to be fetched; those still to be checked are not among them."""
        return [index for index, state in enumerate(self._states) if state == _MISSING]

    def find_missing(self, start: int) -> int:
        """The first missing chunk at or after `start`; -1 when there is none."""
        return self._states.find(_MISSING, start)

    def write_chunk(self, index: int, raw: bytes) -> bool:
        """Check and write one chunk; False when it is there already.

        Raises:
            DigestMismatchError: not the chunk that the index names, or no such chunk; nothing is written.
            StorageFullError: no space after all (a file system that does not keep its reservation).
            StorageFaultError: the disk does not take it.
        """
        if not 0 <= index < self._count:
            raise DigestMismatchError(f"blob {self.sha256} has {self._count} chunks, none is number {index}")
        if self._states[index] == _PRESENT:
            return False
        if not self._matches(index, raw):
            raise DigestMismatchError(f"chunk {index} of blob {self.sha256} is not what its index says")
        data, _ = self._opened()
        self._files.write(data, raw, index * CHUNK_SIZE_BYTES)
        self._mark(index, raw)
        self._unsynced_bytes += len(raw)
        self._sync_some(index)
        return True

    def settle(self, max_bytes: int) -> bool:
        """Check and hash up to about `max_bytes` of what is in the file but was not hashed on its way in.

        Returns True once there is nothing left to do before the next chunk comes. A chunk that is damaged
        becomes missing.

        Raises:
            StorageFaultError: the disk does not give it back.
        """
        while (index := self._next_to_settle()) is not None and max_bytes > 0:
            raw = self._read(index)
            max_bytes -= len(raw)
            if self._matches(index, raw):
                self._settled(index, raw)
            else:
                self._forget(index)
        return self._next_to_settle() is None

    def sync(self) -> None:
        """Make all chunks so far survive a loss of power.

        Raises:
            StorageFaultError: the disk does not take it.
        """
        if self._unsynced_bytes and self._handles:
            data, bitmap = self._handles
            self._files.sync(data)
            self._files.sync(bitmap)
            self._unsynced_bytes = 0

    def complete(self) -> Path:
        """Check the whole blob and put it into the store; returns its path.

        Raises:
            ConflictError: chunks are missing.
            DigestMismatchError: every chunk fits the index but the whole does not fit its name; the
                partial blob is discarded.
            StorageFaultError: the disk does not take it; the partial blob stays.
        """
        self.settle(self._plan.size_bytes + CHUNK_SIZE_BYTES)
        if self.find_missing(0) >= 0:
            raise ConflictError(f"blob {self.sha256} still lacks {len(self.missing())} chunks")
        if self._whole.hexdigest() != self.sha256:
            self.discard()
            raise DigestMismatchError(f"blob {self.sha256} does not match its own chunk index")
        self._files.sync(self._opened()[0])
        path = self._keep(self._plan, self._plan.folder / DATA_FILE)
        self._unsynced_bytes = 0
        self.discard()
        return path

    def close(self) -> None:
        """Sync, and let go of the files; what was fetched stays for the next `open_partial`.

        Raises:
            StorageFaultError: the disk does not take it.
        """
        if self._handles:
            try:
                self.sync()
            finally:
                self._let_go()

    def discard(self) -> None:
        """Let go of the files and remove them."""
        self._let_go()
        remove_partial(self._plan.folder, self._files)

    def _open(self) -> None:
        folder = self._plan.folder
        data, bitmap = self._files.facts(folder / DATA_FILE), self._files.facts(folder / BITMAP_FILE)
        sizes = (data and data.size_bytes, bitmap and bitmap.size_bytes)
        if sizes == (self._plan.size_bytes, len(self._bitmap)):
            self._resume()
        else:
            self._begin()

    def _resume(self) -> None:
        _, bitmap = self._open_both(self._files.open)
        self._bitmap[:] = self._files.read(bitmap, len(self._bitmap), 0)
        for index in range(self._count):
            if self._bitmap[index >> 3] >> (index & 7) & 1:
                self._states[index] = _UNCHECKED

    def _begin(self) -> None:
        folder = self._plan.folder
        remove_partial(folder, self._files)
        try:
            self._files.make_folder(folder)
            data, bitmap = self._open_both(lambda path: self._files.create(path, 0o644))
            self._files.reserve(data, self._plan.size_bytes)
            self._files.write(bitmap, bytes(self._bitmap), 0)
            self._check_headroom()
            self._files.sync_folder(folder)
            self._files.sync_folder(folder.parent)
        except EnvironmentFaultError:
            with contextlib.suppress(EnvironmentFaultError):
                self.discard()
            raise

    def _open_both(self, opened: Callable[[Path], int]) -> tuple[int, int]:
        data = opened(self._plan.folder / DATA_FILE)
        try:
            self._handles = data, opened(self._plan.folder / BITMAP_FILE)
        except EnvironmentFaultError:
            self._files.close(data)
            raise
        return self._handles

    def _check_headroom(self) -> None:
        free_bytes = self._files.free_bytes(self._plan.folder)
        if free_bytes < self._plan.headroom_bytes:
            raise StorageFullError(
                f"blob {self.sha256} of {self._plan.size_bytes} bytes would leave {free_bytes} bytes free, "
                f"less than the {self._plan.headroom_bytes} that must stay"
            )

    def _matches(self, index: int, raw: bytes) -> bool:
        expected_size = chunk_size(self._plan.size_bytes, index)
        return len(raw) == expected_size and hashlib.sha256(raw).hexdigest() == digest_at(
            self._plan.digests, index
        )

    def _mark(self, index: int, raw: bytes) -> None:
        self._bitmap[index >> 3] |= 1 << (index & 7)
        self._write_bits(index)
        self._settled(index, raw)

    def _sync_some(self, index: int) -> None:
        """Let the disk keep up; what `complete` does next anyway is left to it."""
        if self._unsynced_bytes >= SYNC_EVERY_BYTES and self.find_missing(0) >= 0:
            self.sync()
        elif (index + 1) % BEGIN_SYNC_CHUNKS == 0:
            first = index + 1 - BEGIN_SYNC_CHUNKS
            size_bytes = BEGIN_SYNC_CHUNKS * CHUNK_SIZE_BYTES
            self._files.begin_sync(self._opened()[0], first * CHUNK_SIZE_BYTES, size_bytes)

    def _settled(self, index: int, raw: bytes) -> None:
        if self._states[index] != _PRESENT:
            self._states[index] = _PRESENT
            self._present_bytes += len(raw)
        if index == self._prefix:
            self._whole.update(raw)
            self._prefix += 1

    def _forget(self, index: int) -> None:
        if self._states[index] == _PRESENT:
            self._present_bytes -= chunk_size(self._plan.size_bytes, index)
        self._states[index] = _MISSING
        self._bitmap[index >> 3] &= ~(1 << (index & 7))
        self._write_bits(index)

    def _write_bits(self, index: int) -> None:
        at = index >> 3
        self._files.write(self._opened()[1], bytes(self._bitmap[at : at + 1]), at)

    def _next_to_settle(self) -> int | None:
        if self._prefix < self._count and self._states[self._prefix] != _MISSING:
            return self._prefix
        unchecked = self._states.find(_UNCHECKED, self._prefix)
        return unchecked if unchecked >= 0 else None

    def _read(self, index: int) -> bytes:
        size_bytes = chunk_size(self._plan.size_bytes, index)
        return self._files.read(self._opened()[0], size_bytes, index * CHUNK_SIZE_BYTES)

    def _opened(self) -> tuple[int, int]:
        if self._handles is None:
            raise ConflictError(f"partial blob {self.sha256} is closed")
        return self._handles

    def _let_go(self) -> None:
        if self._handles:
            handles, self._handles = self._handles, None
            self._released(self.sha256)
            for handle in handles:
                self._files.close(handle)


def remove_partial(folder: Path, files: Files) -> None:
    """Remove a partial blob's files and folder; one that is not there is no error.

    Raises:
        StorageFaultError: the disk or its rights do not allow it.
    """
    for name in files.entries(folder):
        files.remove(folder / name)
    files.remove_folder(folder)
