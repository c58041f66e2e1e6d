"""Chunks of a wanted blob that other blobs in the store already hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packhorse_agent.contract.chunks import DIGEST_BYTES
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_agent.store.files import Files


def reusable_chunks(
    indexes: Path, blobs: Path, digests: bytes, wanted: Iterable[int], files: Files
) -> Iterator[tuple[int, bytes]]:
    """Yield (number, raw chunk) for each of `wanted` that a blob named in `indexes` holds, checked.

    Raises:
        StorageFaultError: the disk does not give it back.
    """
    lacking: dict[bytes, list[int]] = {}
    for index in wanted:
        lacking.setdefault(_digest(digests, index), []).append(index)
    for name in files.entries(indexes):
        if not lacking:
            return
        if files.facts(blobs / name) is not None:
            yield from _from_blob(indexes / name, blobs / name, lacking, files)


def _from_blob(
    index: Path, blob: Path, lacking: dict[bytes, list[int]], files: Files
) -> Iterator[tuple[int, bytes]]:
    held = _content(index, files)
    handle = files.open(blob)
    try:
        for position in range(len(held) // DIGEST_BYTES):
            digest = _digest(held, position)
            if digest not in lacking:
                continue
            raw = files.read(handle, CHUNK_SIZE_BYTES, position * CHUNK_SIZE_BYTES)
            if hashlib.sha256(raw).digest() == digest:
                yield from ((number, raw) for number in lacking.pop(digest))
    finally:
        files.close(handle)


def _content(path: Path, files: Files) -> bytes:
    facts = files.facts(path)
    handle = files.open(path)
    try:
        return files.read(handle, facts.size_bytes if facts else 0, 0)
    finally:
        files.close(handle)


def _digest(digests: bytes, index: int) -> bytes:
    return digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
