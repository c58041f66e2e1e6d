"""One wanted blob, and the part of it that is being fetched."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

from packhorse_agent.contract.chunks import index_sizes
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.transfer.flow import ChunkKey
from packhorse_agent.transfer.part import MemoryPart, Part
from packhorse_agent.transfer.spec import BlobSpec


@dataclass(frozen=True)
class Level:
    """A blob, or one level of its index, which is a blob too."""

    sha256: str
    size_bytes: int


class Fetch:
    """One level on its way in: its part, and where asking for it stands. Times are seconds."""

    def __init__(self, job: Job, level: Level, part: Part) -> None:
        self.job = job
        self.level = level
        self.part = part
        self.reuse: Iterator[tuple[int, bytes]] | None = None
        self.paused_until_s = 0.0
        self.dirty_since_s: float | None = None
        self.retries = 0
        self._cursor = 0

    def take(self, count: int, in_flight: Container[ChunkKey]) -> list[int]:
        """Up to `count` missing chunks that are not in flight, ascending."""
        taken: list[int] = []
        while len(taken) < count and (index := self.part.find_missing(self._cursor)) >= 0:
            self._cursor = index + 1
            if (self.level.sha256, index) not in in_flight:
                taken.append(index)
        return taken

    def give_back(self, index: int) -> None:
        """Chunk `index` has to be asked for again."""
        self._cursor = min(self._cursor, index)

    def settle(self, max_bytes: int) -> None:
        """Do some pending checks; what turns out damaged is asked for again."""
        if not self.part.settle(0):
            self.part.settle(max_bytes)
            self.give_back(0)

    def finished(self) -> bool:
        """Whether every chunk is there and checked."""
        return self.part.find_missing(0) < 0 and self.part.settle(0)


class Job:
    """The download of one blob, level by level: the top of its index first, the blob last."""

    def __init__(self, spec: BlobSpec) -> None:
        self.spec = spec
        sizes = index_sizes(spec.size_bytes) if spec.chunk_index else ()
        self.levels = (Level(spec.sha256, spec.size_bytes), *map(Level, spec.chunk_index, sizes))
        """The blob, then its index, lowest first; each is checked by means of the one after it."""
        self.fetch: Fetch | None = None

    def next_level(self, blobs: BlobStore) -> Level | None:
        """The level that can be fetched now and that the rest depends on; None: the blob is here."""
        if blobs.has(self.spec.sha256):
            return None
        for level, above in zip(self.levels, self.levels[1:], strict=False):
            if blobs.has(above.sha256):
                return level
        return self.levels[-1]

    def open(self, level: Level, blobs: BlobStore) -> Fetch:
        """Begin or resume `level`.

        Raises:
            DigestMismatchError: the level above was damaged on disk, and is removed.
            BadInputError: the level above has another size than the blob needs.
            StorageFullError: no space; nothing is left behind.
            StorageFaultError: the disk or its rights do not allow it.
        """
        above = self.levels.index(level) + 1
        if above == len(self.levels):
            self.fetch = Fetch(self, level, MemoryPart(blobs, level.sha256, level.size_bytes))
            return self.fetch
        index = self.levels[above]
        digests = blobs.read(index.sha256, index.size_bytes)
        partial = blobs.open_partial(level.sha256, level.size_bytes, digests)
        self.fetch = Fetch(self, level, partial)
        self.fetch.reuse = blobs.reusable(digests, partial.missing())
        return self.fetch

    def present_bytes(self) -> int:
        """Bytes of the blob itself that are here."""
        fetch = self.fetch
        return fetch.part.present_bytes if fetch and fetch.level == self.levels[0] else 0
