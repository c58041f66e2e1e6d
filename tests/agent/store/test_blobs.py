"""Content by its digest, within a budget."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_agent.errors import BadInputError, ConflictError, NotFoundError
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.store.errors import DigestMismatchError, StorageFullError
from tests.fakes.blobs import SampleBlob, make_blob, random_blob
from tests.fakes.memory_files import MemoryFiles

ROOT = Path("/state")


def _store(files: MemoryFiles | None = None) -> BlobStore:
    return BlobStore(ROOT, files or MemoryFiles(ROOT), headroom_bytes=0)


def _fetch(store: BlobStore, blob: SampleBlob) -> None:
    partial = store.open_partial(blob.sha256, len(blob.data), blob.digests)
    for index in range(blob.count):
        partial.write_chunk(index, blob.chunk(index))
    partial.complete()


def test_bytes_go_in_and_come_out(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    sha256 = store.add_bytes(b"hello")
    assert sha256 == hashlib.sha256(b"hello").hexdigest()
    assert store.has(sha256)
    assert store.read(sha256, 5) == b"hello"
    assert store.path(sha256).read_bytes() == b"hello"
    store.verify(sha256)
    assert store.add_bytes(b"hello") == sha256


def test_the_empty_blob_is_a_blob() -> None:
    store = _store()
    assert store.read(store.add_bytes(b""), 0) == b""


def test_reading_is_bounded() -> None:
    store = _store()
    sha256 = store.add_bytes(b"hello")
    with pytest.raises(BadInputError, match="larger than 4"):
        store.read(sha256, 4)
    assert store.has(sha256)


@pytest.mark.parametrize("operation", ["read", "verify", "path"])
def test_a_blob_that_is_not_here_is_not_found(operation: str) -> None:
    arguments = (10,) if operation == "read" else ()
    with pytest.raises(NotFoundError):
        getattr(_store(), operation)("0" * 64, *arguments)


@pytest.mark.parametrize("operation", ["read", "verify"])
def test_a_damaged_blob_is_removed_to_be_fetched_again(operation: str) -> None:
    files = MemoryFiles(ROOT)
    store = _store(files)
    sha256 = store.add_bytes(b"hello")
    files.damage(ROOT / "blobs" / sha256, 1)
    arguments = (10,) if operation == "read" else ()
    with pytest.raises(DigestMismatchError):
        getattr(store, operation)(sha256, *arguments)
    assert not store.has(sha256)
    assert files.open_handles == 0


def test_a_full_disk_adds_nothing() -> None:
    files = MemoryFiles(ROOT, capacity_bytes=3)
    store = _store(files)
    with pytest.raises(StorageFullError):
        store.add_bytes(b"hello")
    assert store.size_bytes() == 0
    assert files.entries(ROOT / "blobs") == []


def test_the_size_counts_whole_and_reserved_bytes() -> None:
    store = _store()
    store.add_bytes(b"hello")
    blob = random_blob(3)
    store.open_partial(blob.sha256, len(blob.data), blob.digests)
    assert store.size_bytes() == 5 + len(blob.data)
    assert [(entry.sha256, entry.size_bytes) for entry in store.partials()] == [(blob.sha256, len(blob.data))]


def test_collecting_takes_the_oldest_first_and_only_what_is_needed() -> None:
    store = _store()
    names = [store.add_bytes(bytes([number]) * 10) for number in range(5)]
    assert store.collect(keep=[names[0]], budget_bytes=30) == names[1:3]
    assert [store.has(name) for name in names] == [True, False, False, True, True]


def test_collecting_within_the_budget_takes_nothing() -> None:
    store = _store()
    store.add_bytes(b"hello")
    assert store.collect(keep=[], budget_bytes=5) == []


def test_what_is_kept_or_being_fetched_stays_beyond_the_budget() -> None:
    store = _store()
    kept = store.add_bytes(b"hello")
    blob = random_blob(2)
    partial = store.open_partial(blob.sha256, len(blob.data), blob.digests)
    assert store.collect(keep={kept}, budget_bytes=0) == []
    partial.close()
    assert store.collect(keep={kept}, budget_bytes=0) == [blob.sha256]
    assert store.partials() == []


def test_abandoned_partial_blobs_go_before_whole_ones() -> None:
    store = _store()
    old = store.add_bytes(b"hello")
    blob = random_blob(2)
    store.open_partial(blob.sha256, len(blob.data), blob.digests).close()
    assert store.collect(keep=[], budget_bytes=5) == [blob.sha256]
    assert store.has(old)


def test_discarding_an_abandoned_partial_frees_its_space() -> None:
    files = MemoryFiles(ROOT)
    store = _store(files)
    blob = random_blob(2)
    store.open_partial(blob.sha256, len(blob.data), blob.digests).close()
    store.discard_partial(blob.sha256)
    store.discard_partial(blob.sha256)
    assert files.free_bytes(ROOT) == files.capacity_bytes


def test_a_blob_that_is_here_is_not_fetched() -> None:
    store = _store()
    blob = random_blob(2)
    _fetch(store, blob)
    with pytest.raises(ConflictError):
        store.open_partial(blob.sha256, len(blob.data), blob.digests)


def test_starting_cleans_up_what_a_kill_left() -> None:
    files = MemoryFiles(ROOT)
    blob = random_blob(2)
    _fetch(_store(files), blob)
    files.put(ROOT / "blobs" / ".x.tmp", b"half")
    files.put(ROOT / "indexes" / ".x.tmp", b"half")
    files.put(ROOT / "indexes" / ("1" * 64), b"orphan")
    files.put(ROOT / "partial" / blob.sha256 / "bitmap", b"\3")
    files.put(ROOT / "partial" / ("2" * 64) / "bitmap", b"\0")
    store = _store(files)
    assert files.entries(ROOT / "blobs") == [blob.sha256]
    assert files.entries(ROOT / "indexes") == [blob.sha256]
    assert files.entries(ROOT / "partial") == []
    assert store.size_bytes() == len(blob.data)


def test_chunks_of_other_blobs_are_reused() -> None:
    store = _store()
    old = random_blob(4, seed=1)
    _fetch(store, old)
    mixed = make_blob(old.chunk(2) + random_blob(1, seed=2, last_bytes=CHUNK_SIZE_BYTES).data + old.chunk(2))
    found = dict(store.reusable(mixed.digests, range(mixed.count)))
    assert found == {0: old.chunk(2), 2: old.chunk(2)}
    assert dict(store.reusable(mixed.digests, [1, 2])) == {2: old.chunk(2)}


def test_a_damaged_chunk_is_not_reused() -> None:
    files = MemoryFiles(ROOT)
    store = _store(files)
    blob = random_blob(3)
    _fetch(store, blob)
    files.damage(ROOT / "blobs" / blob.sha256, CHUNK_SIZE_BYTES)
    found = dict(store.reusable(blob.digests, range(blob.count)))
    assert found == {0: blob.chunk(0), 2: blob.chunk(2)}
    assert files.open_handles == 0


@pytest.mark.parametrize("index", [b"", b"short", bytes(64), bytes(32 * 100)])
def test_a_wrong_index_costs_only_a_download(index: bytes) -> None:
    files = MemoryFiles(ROOT)
    store = _store(files)
    blob = random_blob(3)
    _fetch(store, blob)
    files.put(ROOT / "indexes" / blob.sha256, index)
    assert list(store.reusable(blob.digests, range(blob.count))) == []


def test_a_removed_blob_supplies_nothing() -> None:
    store = _store()
    blob = random_blob(3)
    _fetch(store, blob)
    store.remove(blob.sha256)
    store.remove(blob.sha256)
    assert list(store.reusable(blob.digests, range(blob.count))) == []
