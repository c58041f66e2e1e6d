"""One run of chunks that is being fetched: a blob, or one level of its index."""

from __future__ import annotations

from typing import Protocol

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.chunks import chunk_count, chunk_size
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.store.errors import DigestMismatchError


class Part(Protocol):
    """What a download does with chunks; `store.partial.PartialBlob` is the one on disk."""

    @property
    def present_bytes(self) -> int:
        """Raw bytes that are kept."""

    @property
    def unsynced_bytes(self) -> int:
        """Raw bytes that a loss of power would lose."""

    def find_missing(self, start: int) -> int:
        """The first missing chunk at or after `start`; -1 when there is none."""

    def write_chunk(self, index: int, raw: bytes) -> bool:
        """Check and keep a chunk; False when it is there already."""

    def settle(self, max_bytes: int) -> bool:
        """Do up to about `max_bytes` of pending checks; True when none is left."""

    def sync(self) -> None:
        """Make what is there survive a loss of power."""

    def complete(self) -> object:
        """Check the whole and put it into the store."""

    def close(self) -> None:
        """Keep what is there for later."""

    def discard(self) -> None:
        """Drop what is there."""


class MemoryPart:
    """A small blob without an index: one chunk, or a metadata file that is checked as a whole.

    Nothing of it reaches the disk before its digest is checked.
    """

    def __init__(self, blobs: BlobStore, sha256: str, size_bytes: int) -> None:
        self._blobs = blobs
        self._sha256 = sha256
        self._size_bytes = size_bytes
        self._chunks: list[bytes | None] = [None] * chunk_count(size_bytes)

    @property
    def present_bytes(self) -> int:
        """Raw bytes that are kept."""
        return sum(len(chunk) for chunk in self._chunks if chunk is not None)

    @property
    def unsynced_bytes(self) -> int:
        """Always 0: nothing is on disk."""
        return 0

    def find_missing(self, start: int) -> int:
        """The first missing chunk at or after `start`; -1 when there is none."""
        return next((i for i in range(start, len(self._chunks)) if self._chunks[i] is None), -1)

    def write_chunk(self, index: int, raw: bytes) -> bool:
        """Keep a chunk; False when it is there already.

        Raises:
            DigestMismatchError: no such chunk, a wrong size, or the only chunk and not the blob.
        """
        if not 0 <= index < len(self._chunks) or len(raw) != chunk_size(self._size_bytes, index):
            raise DigestMismatchError(f"blob {self._sha256} has no chunk {index} of {len(raw)} bytes")
        if self._chunks[index] is not None:
            return False
        if len(self._chunks) == 1 and sha256_hex(raw) != self._sha256:
            raise DigestMismatchError(f"not blob {self._sha256}")
        self._chunks[index] = raw
        return True

    def settle(self, max_bytes: int) -> bool:
        """True: nothing is ever pending."""
        return True

    def sync(self) -> None:
        """Nothing to do."""

    def complete(self) -> None:
        """Store the blob.

        Raises:
            DigestMismatchError: not what its name says; all its chunks are missing again.
            StorageFullError: no space; nothing was stored.
        """
        data = b"".join(chunk for chunk in self._chunks if chunk is not None)
        if sha256_hex(data) != self._sha256:
            self.discard()
            raise DigestMismatchError(f"what came is not blob {self._sha256}")
        self._blobs.add_bytes(data)

    def close(self) -> None:
        """Nothing to keep."""

    def discard(self) -> None:
        """Drop what is there."""
        self._chunks = [None] * len(self._chunks)
