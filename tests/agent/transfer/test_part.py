"""Small blobs without an index."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.store.errors import DigestMismatchError
from packhorse_agent.transfer.part import MemoryPart
from tests.fakes.blobs import SampleBlob, random_blob
from tests.fakes.memory_files import MemoryFiles

ROOT = Path("/state")
ONE, THREE = random_blob(1), random_blob(3)


def _part(blob: SampleBlob) -> tuple[MemoryPart, BlobStore]:
    store = BlobStore(ROOT, MemoryFiles(ROOT), headroom_bytes=0)
    return MemoryPart(store, blob.sha256, len(blob.data)), store


@pytest.mark.parametrize("blob", [ONE, THREE])
def test_its_chunks_in_any_order_make_the_blob(blob: SampleBlob) -> None:
    part, store = _part(blob)
    for index in reversed(range(blob.count)):
        assert part.find_missing(0) == 0
        assert part.write_chunk(index, blob.chunk(index))
        assert not part.write_chunk(index, blob.chunk(index))
    assert part.find_missing(0) == -1
    assert part.present_bytes == len(blob.data)
    part.complete()
    assert store.read(blob.sha256, len(blob.data)) == blob.data


@pytest.mark.parametrize("raw", [b"", ONE.data[:-1], ONE.data + b"x", bytes(len(ONE.data))])
def test_a_single_wrong_chunk_is_refused(raw: bytes) -> None:
    part, _ = _part(ONE)
    with pytest.raises(DigestMismatchError):
        part.write_chunk(0, raw)
    assert part.find_missing(0) == 0


@pytest.mark.parametrize("index", [-1, 3, 1 << 31])
def test_a_chunk_that_the_blob_does_not_have_is_refused(index: int) -> None:
    part, _ = _part(THREE)
    with pytest.raises(DigestMismatchError):
        part.write_chunk(index, THREE.chunk(0))


def test_a_wrong_whole_stores_nothing_and_starts_again() -> None:
    part, store = _part(THREE)
    part.write_chunk(0, bytes(len(THREE.chunk(0))))
    part.write_chunk(1, THREE.chunk(1))
    part.write_chunk(2, THREE.chunk(2))
    with pytest.raises(DigestMismatchError):
        part.complete()
    assert part.find_missing(0) == 0
    assert part.present_bytes == 0
    assert store.size_bytes() == 0
