"""Blobs to move in tests: their bytes, their index and their description."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from packhorse_agent.contract.chunks import build_index, chunk_count
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_agent.transfer import BlobSpec


@dataclass(frozen=True)
class SampleBlob:
    """A blob and its index levels, lowest first."""

    data: bytes
    levels: tuple[bytes, ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def spec(self) -> BlobSpec:
        return BlobSpec(self.sha256, len(self.data), tuple(_name(level) for level in self.levels))

    @property
    def digests(self) -> bytes:
        """SHA-256 of each raw chunk, 32 bytes each."""
        return self.levels[0] if self.levels else hashlib.sha256(self.data).digest()

    @property
    def count(self) -> int:
        return chunk_count(len(self.data))

    def chunk(self, index: int) -> bytes:
        return self.data[index * CHUNK_SIZE_BYTES : (index + 1) * CHUNK_SIZE_BYTES]


def make_blob(data: bytes) -> SampleBlob:
    """Describe `data`."""
    chunks = [data[at : at + CHUNK_SIZE_BYTES] for at in range(0, len(data), CHUNK_SIZE_BYTES)]
    return SampleBlob(data, build_index(hashlib.sha256(chunk).digest() for chunk in chunks))


def random_blob(chunks: int, seed: int = 0, last_bytes: int = 100) -> SampleBlob:
    """`chunks` chunks that do not compress; the last one holds `last_bytes`."""
    size_bytes = (chunks - 1) * CHUNK_SIZE_BYTES + last_bytes
    return make_blob(random.Random(seed).randbytes(size_bytes))


class MemorySource:
    """A host's blobs and their indexes in memory."""

    def __init__(self, blobs: Iterable[SampleBlob]) -> None:
        self.content: dict[str, bytes] = {}
        for blob in blobs:
            self.add(blob)

    def add(self, blob: SampleBlob) -> None:
        self.content.update((_name(data), data) for data in (blob.data, *blob.levels))

    def open_blob(self, sha256: str) -> BinaryIO | None:
        data = self.content.get(sha256)
        return None if data is None else io.BytesIO(data)


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
