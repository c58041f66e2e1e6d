"""A blob on its way in."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_agent.errors import BadInputError, ConflictError, NotFoundError
from packhorse_agent.store import partial as partial_module
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.store.errors import DigestMismatchError, StorageFullError
from packhorse_agent.store.partial import PartialBlob
from tests.fakes.blobs import SampleBlob, random_blob
from tests.fakes.memory_files import MemoryFiles

ROOT = Path("/state")
BLOB = random_blob(5)


def _store(files: MemoryFiles) -> BlobStore:
    return BlobStore(ROOT, files, headroom_bytes=0)


def _open(files: MemoryFiles, blob: SampleBlob = BLOB) -> PartialBlob:
    return _store(files).open_partial(blob.sha256, len(blob.data), blob.digests)


def test_chunks_in_order_make_the_blob(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    partial = store.open_partial(BLOB.sha256, len(BLOB.data), BLOB.digests)
    for index in range(BLOB.count):
        assert partial.missing() == list(range(index, BLOB.count))
        assert partial.write_chunk(index, BLOB.chunk(index))
    path = partial.complete()
    assert path == store.path(BLOB.sha256)
    assert path.read_bytes() == BLOB.data
    assert store.partials() == []


@given(order=st.permutations(range(BLOB.count)), restart_after=st.integers(0, BLOB.count))
def test_any_order_with_a_restart_makes_the_blob(order: list[int], restart_after: int) -> None:
    files = MemoryFiles(ROOT)
    partial = _open(files)
    for at, index in enumerate(order):
        if at == restart_after:
            partial.close()
            partial = _open(files)
        assert partial.write_chunk(index, BLOB.chunk(index))
    partial.complete()
    assert files.content(ROOT / "blobs" / BLOB.sha256) == BLOB.data
    assert files.open_handles == 0


def test_a_blob_of_one_chunk_needs_no_digests() -> None:
    blob = random_blob(1, last_bytes=7)
    files = MemoryFiles(ROOT)
    partial = _store(files).open_partial(blob.sha256, 7)
    partial.write_chunk(0, blob.data)
    partial.complete()
    assert files.content(ROOT / "blobs" / blob.sha256) == blob.data


@pytest.mark.parametrize(
    ("index", "raw"),
    [
        (0, BLOB.chunk(1)),
        (0, BLOB.chunk(0)[:-1]),
        (0, BLOB.chunk(0) + b"\0"),
        (0, b""),
        (4, BLOB.chunk(4) + bytes(CHUNK_SIZE_BYTES - 100)),
        (5, b""),
        (5, BLOB.chunk(0)),
        (-1, BLOB.chunk(4)),
        (1 << 31, BLOB.chunk(0)),
    ],
)
def test_a_wrong_chunk_is_refused_and_nothing_is_written(index: int, raw: bytes) -> None:
    files = MemoryFiles(ROOT)
    partial = _open(files)
    calls = files.calls
    with pytest.raises(DigestMismatchError):
        partial.write_chunk(index, raw)
    assert files.calls == calls
    assert partial.missing() == [0, 1, 2, 3, 4]
    assert partial.present_bytes == 0


def test_a_chunk_that_is_there_is_not_written_again() -> None:
    files = MemoryFiles(ROOT)
    partial = _open(files)
    assert partial.write_chunk(2, BLOB.chunk(2))
    calls = files.calls
    assert not partial.write_chunk(2, BLOB.chunk(2))
    assert not partial.write_chunk(2, b"wrong, and not even looked at")
    assert files.calls == calls
    assert partial.present_bytes == CHUNK_SIZE_BYTES


def test_an_incomplete_blob_does_not_complete() -> None:
    partial = _open(MemoryFiles(ROOT))
    partial.write_chunk(0, BLOB.chunk(0))
    with pytest.raises(ConflictError, match="lacks 4 chunks"):
        partial.complete()


def test_an_index_that_does_not_fit_the_blob_is_found_out() -> None:
    other = random_blob(5, seed=1)
    files = MemoryFiles(ROOT)
    store = _store(files)
    partial = store.open_partial(BLOB.sha256, len(other.data), other.digests)
    for index in range(other.count):
        partial.write_chunk(index, other.chunk(index))
    with pytest.raises(DigestMismatchError):
        partial.complete()
    assert not store.has(BLOB.sha256)
    assert store.partials() == []
    assert files.open_handles == 0


@pytest.mark.parametrize("size_change", [-CHUNK_SIZE_BYTES, CHUNK_SIZE_BYTES])
def test_digests_must_fit_the_size(size_change: int) -> None:
    with pytest.raises(BadInputError):
        _store(MemoryFiles(ROOT)).open_partial(BLOB.sha256, len(BLOB.data) + size_change, BLOB.digests)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n"])
def test_a_name_that_is_no_digest_is_refused(name: str) -> None:
    store = _store(MemoryFiles(ROOT))
    with pytest.raises(BadInputError):
        store.open_partial(name, len(BLOB.data), BLOB.digests)
    with pytest.raises(BadInputError):
        store.has(name)
    with pytest.raises(BadInputError):
        store.discard_partial(name)


def test_a_blob_is_fetched_once_at_a_time() -> None:
    store = _store(MemoryFiles(ROOT))
    partial = store.open_partial(BLOB.sha256, len(BLOB.data), BLOB.digests)
    with pytest.raises(ConflictError):
        store.open_partial(BLOB.sha256, len(BLOB.data), BLOB.digests)
    with pytest.raises(ConflictError):
        store.discard_partial(BLOB.sha256)
    partial.close()
    store.open_partial(BLOB.sha256, len(BLOB.data), BLOB.digests)


def test_a_closed_partial_takes_nothing() -> None:
    partial = _open(MemoryFiles(ROOT))
    partial.close()
    partial.close()
    with pytest.raises(ConflictError):
        partial.write_chunk(0, BLOB.chunk(0))


def test_the_space_is_reserved_before_a_download_begins() -> None:
    files = MemoryFiles(ROOT)
    _open(files)
    free_before = files.free_bytes(ROOT)
    assert (1 << 30) - free_before >= len(BLOB.data)


@pytest.mark.parametrize("missing_bytes", [1, 2 * CHUNK_SIZE_BYTES])
def test_without_space_for_all_of_it_nothing_begins(missing_bytes: int) -> None:
    files = MemoryFiles(ROOT, capacity_bytes=len(BLOB.data) - missing_bytes)
    store = _store(files)
    with pytest.raises(StorageFullError):
        store.open_partial(BLOB.sha256, len(BLOB.data), BLOB.digests)
    assert store.partials() == []
    assert files.entries(ROOT / "partial") == []
    assert files.free_bytes(ROOT) == files.capacity_bytes
    assert files.open_handles == 0


def test_a_download_leaves_headroom_for_state() -> None:
    files = MemoryFiles(ROOT, capacity_bytes=len(BLOB.data) + 1000)
    store = BlobStore(ROOT, files, headroom_bytes=2000)
    with pytest.raises(StorageFullError, match="must stay"):
        store.open_partial(BLOB.sha256, len(BLOB.data), BLOB.digests)
    assert files.entries(ROOT / "partial") == []


def test_set_bits_are_checked_again_after_a_restart() -> None:
    files = MemoryFiles(ROOT)
    partial = _open(files)
    for index in (0, 2, 3):
        partial.write_chunk(index, BLOB.chunk(index))
    partial.close()
    files.damage(ROOT / "partial" / BLOB.sha256 / "data", 2 * CHUNK_SIZE_BYTES + 5)
    partial = _open(files)
    assert partial.present_bytes == 0
    assert partial.missing() == [1, 4]
    assert partial.settle(1 << 30)
    assert partial.missing() == [1, 2, 4]
    assert partial.present_bytes == 2 * CHUNK_SIZE_BYTES


def test_checks_come_in_steps() -> None:
    files = MemoryFiles(ROOT)
    partial = _open(files)
    for index in range(4):
        partial.write_chunk(index, BLOB.chunk(index))
    partial.close()
    partial = _open(files)
    sizes = []
    while not partial.settle(CHUNK_SIZE_BYTES):
        sizes.append(partial.present_bytes)
    assert sizes == [CHUNK_SIZE_BYTES * n for n in (1, 2, 3)]
    assert partial.settle(0)


def test_a_chunk_that_comes_before_its_check_counts_once() -> None:
    files = MemoryFiles(ROOT)
    partial = _open(files)
    partial.write_chunk(1, BLOB.chunk(1))
    partial.close()
    partial = _open(files)
    assert partial.write_chunk(1, BLOB.chunk(1))
    assert partial.settle(1 << 30)
    assert partial.present_bytes == CHUNK_SIZE_BYTES


def test_damage_behind_a_gap_is_found_before_completion() -> None:
    files = MemoryFiles(ROOT)
    partial = _open(files)
    for index in (1, 2, 3, 4):
        partial.write_chunk(index, BLOB.chunk(index))
    files.damage(ROOT / "partial" / BLOB.sha256 / "data", 3 * CHUNK_SIZE_BYTES)
    partial.write_chunk(0, BLOB.chunk(0))
    with pytest.raises(ConflictError):
        partial.complete()
    assert partial.missing() == [3]
    partial.write_chunk(3, BLOB.chunk(3))
    assert partial.complete().name == BLOB.sha256


@pytest.mark.parametrize("name", ["data", "bitmap"])
@pytest.mark.parametrize("content", [b"", b"x", bytes(1 << 20)])
def test_files_of_another_size_start_the_blob_again(name: str, content: bytes) -> None:
    files = MemoryFiles(ROOT)
    partial = _open(files)
    partial.write_chunk(0, BLOB.chunk(0))
    partial.close()
    files.put(ROOT / "partial" / BLOB.sha256 / name, content)
    partial = _open(files)
    assert partial.settle(1 << 30)
    for index in partial.missing():
        partial.write_chunk(index, BLOB.chunk(index))
    partial.complete()
    assert files.content(ROOT / "blobs" / BLOB.sha256) == BLOB.data


def test_a_bitmap_of_noise_is_not_believed() -> None:
    files = MemoryFiles(ROOT)
    _open(files).close()
    files.put(ROOT / "partial" / BLOB.sha256 / "bitmap", b"\xff")
    partial = _open(files)
    partial.settle(1 << 30)
    assert partial.missing() == [0, 1, 2, 3, 4]


def test_many_chunks_share_one_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_module, "SYNC_EVERY_BYTES", 3 * CHUNK_SIZE_BYTES)
    synced: list[int] = []

    class Counting(MemoryFiles):
        def sync(self, handle: int) -> None:
            synced.append(handle)
            super().sync(handle)

    partial = _open(Counting(ROOT))
    for index in range(3):
        assert len(synced) == 0
        partial.write_chunk(index, BLOB.chunk(index))
    assert len(synced) == 2
    assert partial.unsynced_bytes == 0


def test_the_disk_works_while_the_next_chunks_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_module, "BEGIN_SYNC_CHUNKS", 2)
    begun: list[tuple[int, int]] = []

    class Recording(MemoryFiles):
        def begin_sync(self, handle: int, offset: int, size_bytes: int) -> None:
            begun.append((offset // CHUNK_SIZE_BYTES, size_bytes // CHUNK_SIZE_BYTES))

    partial = _open(Recording(ROOT))
    for index in (0, 1, 3, 2, 1, 4):
        partial.write_chunk(index, BLOB.chunk(index))
    assert begun == [(0, 2), (2, 2)]


def test_the_last_sync_is_left_to_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_module, "SYNC_EVERY_BYTES", len(BLOB.data))
    partial = _open(MemoryFiles(ROOT))
    for index in range(BLOB.count):
        partial.write_chunk(index, BLOB.chunk(index))
    assert partial.unsynced_bytes == len(BLOB.data)
    partial.complete()
    assert partial.unsynced_bytes == 0


def test_a_chunk_that_the_disk_refuses_does_not_count() -> None:
    files = MemoryFiles(ROOT)
    partial = _open(files)
    healthy = files.write

    def full(handle: int, data: bytes, offset: int) -> None:
        raise StorageFullError("no space left")

    files.write = full  # type: ignore[method-assign]
    with pytest.raises(StorageFullError):
        partial.write_chunk(0, BLOB.chunk(0))
    files.write = healthy  # type: ignore[method-assign]
    assert partial.missing() == [0, 1, 2, 3, 4]


def test_a_blob_of_many_chunks_finds_its_gaps_fast() -> None:
    count = 131_072
    digests = random.Random(3).randbytes(32) * count
    files = MemoryFiles(ROOT, capacity_bytes=1 << 40)
    files.reserve = lambda handle, size_bytes: None  # type: ignore[method-assign]
    store = _store(files)
    partial = store.open_partial("0" * 64, count * CHUNK_SIZE_BYTES, digests)
    assert [partial.find_missing(at) for at in range(0, count, 1000)] == list(range(0, count, 1000))
    assert partial.find_missing(count) == -1


def test_an_unfinished_blob_is_no_blob() -> None:
    store = _store(MemoryFiles(ROOT))
    store.open_partial(BLOB.sha256, len(BLOB.data), BLOB.digests)
    assert not store.has(BLOB.sha256)
    with pytest.raises(NotFoundError):
        store.path(BLOB.sha256)
