"""The downloader against frames that a test hands it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest

from packhorse_agent.contract.chunks import (
    Chunk,
    Reply,
    ReplyKind,
    Want,
    encode_chunk,
    encode_reply,
)
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_agent.contract.states import FailureReason
from packhorse_agent.errors import NotFoundError
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.store.errors import StorageFaultError, StorageFullError
from packhorse_agent.transfer import BlobSpec, Completed, Downloader, Failed
from packhorse_agent.transfer.downloader import OPEN_MAX, SYNC_AFTER_S
from tests.fakes.blobs import SampleBlob, make_blob, random_blob
from tests.fakes.delivery import ManualClock
from tests.fakes.memory_files import MemoryFiles

ROOT = Path("/state")
BLOB = random_blob(20)
SMALL = random_blob(1, seed=7)


class Rig:
    """A downloader over a disk in memory, and what it asked for."""

    def __init__(self, files: MemoryFiles | None = None) -> None:
        self.files = files or MemoryFiles(ROOT)
        self.clock = ManualClock()
        self.wants: list[Want] = []
        self.start()

    def start(self) -> None:
        self.store = BlobStore(ROOT, self.files, headroom_bytes=0)
        self.downloader = Downloader(self.store, self.wants.append, self.clock, random.Random(1))

    def asked(self) -> list[tuple[str, int]]:
        """(blob, number) of the chunks asked for since the last call."""
        wants, self.wants[:] = list(self.wants), []
        return [
            (want.blob_sha256, index)
            for want in wants
            for part in want.ranges
            for index in range(part.start, part.start + part.count)
        ]

    def send(self, blob: SampleBlob, indexes: Iterable[int]) -> None:
        for index in indexes:
            self.downloader.on_frame(encode_chunk(Chunk(blob.sha256, index, blob.chunk(index))))

    def send_index(self, blob: SampleBlob) -> None:
        for level in reversed(blob.levels):
            self.send(make_blob(level), [0])

    def reply(self, sha256: str, kind: ReplyKind, retry_after_ms: int = 0) -> None:
        self.downloader.on_frame(encode_reply(Reply(sha256, kind, retry_after_ms)))

    def wait(self) -> None:
        """Let the clock run to what is due, and do it."""
        due_s = self.downloader.next_due()
        assert due_s is not None
        self.clock.now_s = max(self.clock.now_s, due_s)
        self.downloader.tick()

    def wait_for_want(self) -> None:
        """Let the clock run until something is asked for."""
        self.wants.clear()
        while not self.wants:
            self.wait()


def test_a_single_chunk_is_asked_for_and_completes() -> None:
    rig = Rig()
    rig.downloader.want(SMALL.spec)
    assert rig.asked() == [(SMALL.sha256, 0)]
    rig.send(SMALL, [0])
    assert rig.downloader.poll() == [Completed(SMALL.sha256)]
    assert rig.downloader.poll() == []
    assert rig.store.read(SMALL.sha256, 1000) == SMALL.data
    assert rig.downloader.next_due() is None


def test_the_index_comes_before_the_blob() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    assert rig.asked() == [(BLOB.spec.chunk_index[0], 0)]
    rig.send(BLOB, range(BLOB.count))
    assert rig.downloader.counters.unasked == BLOB.count
    rig.send_index(BLOB)
    # a window of eight, and one more for the chunk that has come
    assert rig.asked() == [(BLOB.sha256, index) for index in range(9)]


def test_the_next_half_window_is_asked_for_when_one_has_come() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    rig.send_index(BLOB)
    rig.asked()
    rig.send(BLOB, range(2))
    assert rig.asked() == []
    rig.send(BLOB, [2])
    assert len(rig.asked()) >= 4


def test_requests_name_as_many_chunks_as_they_allow() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    rig.send_index(BLOB)
    for want in rig.wants:
        assert want.window == sum(part.count for part in want.ranges)
        assert not want.merged
    assert len({want.request_id for want in rig.wants}) == len(rig.wants)


def test_the_index_is_dropped_when_the_blob_is_here() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    assert rig.downloader.holds() == {BLOB.sha256, *BLOB.spec.chunk_index}
    rig.send_index(BLOB)
    rig.send(BLOB, range(BLOB.count))
    assert rig.downloader.poll() == [Completed(BLOB.sha256)]
    assert rig.store.size_bytes() == len(BLOB.data)
    assert rig.downloader.holds() == frozenset()
    assert rig.files.open_handles == 0


def test_wanting_twice_asks_once() -> None:
    rig = Rig()
    rig.downloader.want(SMALL.spec)
    rig.downloader.want(SMALL.spec)
    assert len(rig.asked()) == 1
    rig.send(SMALL, [0])
    assert rig.downloader.poll() == [Completed(SMALL.sha256)]


def test_a_blob_that_is_here_completes_at_once() -> None:
    rig = Rig()
    rig.store.add_bytes(SMALL.data)
    rig.downloader.want(SMALL.spec)
    assert rig.asked() == []
    assert rig.downloader.poll() == [Completed(SMALL.sha256)]


def test_progress_counts_verified_bytes_of_the_blob_itself() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    assert rig.downloader.progress(BLOB.sha256) == (0, len(BLOB.data))
    rig.send_index(BLOB)
    rig.send(BLOB, [0, 1])
    assert rig.downloader.progress(BLOB.sha256) == (2 * CHUNK_SIZE_BYTES, len(BLOB.data))
    with pytest.raises(NotFoundError):
        rig.downloader.progress(SMALL.sha256)


@pytest.mark.parametrize(
    "frame",
    [b"", b"PC", b"PR", b"PW" + bytes(50), b"\xff" * 100, encode_chunk(Chunk("0" * 64, 0, b"x"))[:-1]],
)
def test_a_malformed_frame_is_counted_and_ignored(frame: bytes) -> None:
    rig = Rig()
    rig.downloader.want(SMALL.spec)
    rig.downloader.on_frame(frame)
    assert rig.downloader.counters.malformed == 1
    rig.send(SMALL, [0])
    assert rig.downloader.poll() == [Completed(SMALL.sha256)]


def test_frames_of_blobs_that_nobody_wants_are_counted_and_ignored() -> None:
    rig = Rig()
    rig.send(SMALL, [0])
    rig.reply(SMALL.sha256, ReplyKind.NOT_FOUND)
    rig.reply(SMALL.sha256, ReplyKind.BUSY, 1)
    assert rig.downloader.counters.unasked == 3
    assert rig.downloader.poll() == []
    assert not rig.store.has(SMALL.sha256)


def test_a_corrupt_chunk_is_never_written_and_is_asked_for_again() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    rig.send_index(BLOB)
    rig.asked()
    rig.downloader.on_frame(encode_chunk(Chunk(BLOB.sha256, 0, BLOB.chunk(1))))
    assert rig.downloader.counters.corrupt == 1
    assert rig.downloader.progress(BLOB.sha256)[0] == 0
    rig.send(BLOB, range(1, 8))
    rig.wait_for_want()
    assert (BLOB.sha256, 0) in rig.asked()


def test_corrupt_frames_do_not_count_as_progress() -> None:
    rig = Rig()
    rig.downloader.want(SMALL.spec)
    due_s = rig.downloader.next_due()
    rig.clock.now_s += 0.5
    rig.downloader.on_frame(encode_chunk(Chunk(SMALL.sha256, 0, b"wrong")))
    assert rig.downloader.next_due() == due_s


def test_after_silence_only_the_missing_chunks_are_asked_for() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    rig.send_index(BLOB)
    first = rig.asked()
    rig.send(BLOB, [0, 2])
    assert rig.asked() == []
    rig.wait_for_want()
    missing = [item for item in first if item[1] not in (0, 2)]
    assert rig.asked()[: len(missing)] == missing
    assert rig.downloader.counters.asked_again == len(missing)


def test_a_duplicate_is_counted_and_changes_nothing() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    rig.send_index(BLOB)
    rig.send(BLOB, [0, 0])
    assert rig.downloader.counters.duplicate == 1
    assert rig.downloader.progress(BLOB.sha256)[0] == CHUNK_SIZE_BYTES


def test_a_blob_that_the_host_lacks_fails_at_once() -> None:
    rig = Rig()
    rig.downloader.want(SMALL.spec)
    rig.reply(SMALL.sha256, ReplyKind.NOT_FOUND)
    (failed,) = rig.downloader.poll()
    assert isinstance(failed, Failed) and failed.reason is FailureReason.DOWNLOAD_NOT_FOUND
    assert rig.downloader.next_due() is None
    rig.asked()
    rig.downloader.want(SMALL.spec)
    assert rig.asked() == [(SMALL.sha256, 0)]


def test_an_index_is_read_into_no_more_memory_than_it_needs() -> None:
    """A bound for any artifact would ask a small device for gigabytes, and be refused."""
    sizes: list[int] = []

    class Recording(MemoryFiles):
        def read(self, handle: int, size_bytes: int, offset: int) -> bytes:
            sizes.append(size_bytes)
            return super().read(handle, size_bytes, offset)

    rig = Rig(Recording(ROOT))
    rig.downloader.want(BLOB.spec)
    rig.send_index(BLOB)
    assert sizes and max(sizes) <= len(BLOB.levels[0]) + 1


def test_a_missing_index_fails_the_blob() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    rig.reply(BLOB.spec.chunk_index[0], ReplyKind.NOT_FOUND)
    (failed,) = rig.downloader.poll()
    assert isinstance(failed, Failed)
    assert (failed.sha256, failed.reason) == (BLOB.sha256, FailureReason.DOWNLOAD_NOT_FOUND)


@pytest.mark.parametrize(
    ("retry_after_ms", "expected_s"), [(2500, 2.5), (0, 0.1), (3_600_000, 60.0), ((1 << 32) - 1, 60.0)]
)
def test_a_busy_host_is_asked_again_when_it_says(retry_after_ms: int, expected_s: float) -> None:
    rig = Rig()
    rig.downloader.want(SMALL.spec)
    rig.asked()
    start_s = rig.clock.now_s
    rig.reply(SMALL.sha256, ReplyKind.BUSY, retry_after_ms)
    assert rig.downloader.next_due() == start_s + expected_s
    rig.downloader.tick()
    assert rig.asked() == []
    rig.wait()
    assert rig.asked() == [(SMALL.sha256, 0)]


def test_a_blob_that_waits_does_not_hold_up_another() -> None:
    rig = Rig()
    rig.downloader.want(SMALL.spec)
    rig.reply(SMALL.sha256, ReplyKind.BUSY, 60_000)
    rig.asked()
    other = random_blob(1, seed=8)
    rig.downloader.want(other.spec)
    assert rig.asked() == [(other.sha256, 0)]


def test_reconnecting_asks_at_once_for_what_was_in_flight() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    rig.send_index(BLOB)
    rig.send(BLOB, [0])
    rig.asked()
    rig.downloader.on_connected()
    assert rig.asked()[:7] == [(BLOB.sha256, index) for index in range(1, 8)]


def test_offline_it_asks_ever_more_seldom() -> None:
    rig = Rig()
    rig.downloader.want(SMALL.spec)
    times = [rig.clock.now_s]
    for _ in range(8):
        rig.asked()
        rig.wait()
        assert rig.asked() == [(SMALL.sha256, 0)]
        times.append(rig.clock.now_s)
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert 1 <= waits[0] <= 3
    assert waits[-1] == 30


def test_only_a_few_blobs_are_fetched_at_a_time() -> None:
    rig = Rig()
    blobs = [random_blob(1, seed=seed) for seed in range(OPEN_MAX + 2)]
    for blob in blobs:
        rig.downloader.want(blob.spec)
    assert [sha256 for sha256, _ in rig.asked()] == [blob.sha256 for blob in blobs[:OPEN_MAX]]
    rig.send(blobs[1], [0])
    rig.send(blobs[0], [0])
    rig.send(blobs[2], [0])
    assert {blob.sha256 for blob in blobs[OPEN_MAX:]} <= {sha256 for sha256, _ in rig.asked()}


def test_a_cancelled_blob_is_not_asked_for_and_keeps_what_it_has() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    rig.send_index(BLOB)
    rig.send(BLOB, range(5))
    rig.asked()
    rig.downloader.cancel(BLOB.sha256)
    rig.downloader.cancel(BLOB.sha256)
    assert rig.downloader.next_due() is None
    assert rig.downloader.poll() == []
    assert rig.files.open_handles == 0
    rig.downloader.want(BLOB.spec)
    assert not set(rig.asked()) & {(BLOB.sha256, index) for index in range(5)}
    rig.downloader.tick()
    assert rig.downloader.progress(BLOB.sha256)[0] == 5 * CHUNK_SIZE_BYTES


def test_cancelling_makes_room_for_the_next() -> None:
    rig = Rig()
    blobs = [random_blob(1, seed=seed) for seed in range(OPEN_MAX + 1)]
    for blob in blobs:
        rig.downloader.want(blob.spec)
    rig.asked()
    rig.downloader.cancel(blobs[0].sha256)
    rig.downloader.cancel(blobs[1].sha256)
    rig.downloader.cancel(blobs[2].sha256)
    assert rig.asked() == [(blobs[-1].sha256, 0)]


def test_a_restart_asks_for_no_chunk_that_is_there() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    rig.send_index(BLOB)
    rig.send(BLOB, [0, 1, 2, 5])
    rig.files.restart()
    rig.asked()
    rig.start()
    rig.downloader.want(BLOB.spec)
    asked = rig.asked()
    assert asked[0] == (BLOB.sha256, 3)
    assert not {(BLOB.sha256, index) for index in (0, 1, 2, 5)} & set(asked)


def test_a_chunk_damaged_while_down_is_fetched_again() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    rig.send_index(BLOB)
    rig.send(BLOB, range(6))
    rig.downloader.close()
    rig.files.damage(ROOT / "partial" / BLOB.sha256 / "data", 4 * CHUNK_SIZE_BYTES)
    rig.asked()
    rig.start()
    rig.downloader.want(BLOB.spec)
    assert (BLOB.sha256, 4) in rig.asked()
    rig.send(BLOB, [4, *range(6, BLOB.count)])
    assert rig.downloader.poll() == [Completed(BLOB.sha256)]
    assert rig.files.content(ROOT / "blobs" / BLOB.sha256) == BLOB.data


def test_what_arrived_is_synced_within_a_second() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    rig.send_index(BLOB)
    rig.send(BLOB, [0])
    start_s = rig.clock.now_s
    rig.clock.now_s += SYNC_AFTER_S / 2
    rig.send(BLOB, [1])
    assert rig.downloader.next_due() == start_s + SYNC_AFTER_S
    rig.wait()
    due_s = rig.downloader.next_due()
    assert due_s is not None and due_s > rig.clock.now_s


def test_chunks_that_another_blob_holds_are_not_asked_for() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    rig.send_index(BLOB)
    rig.send(BLOB, range(BLOB.count))
    rig.asked()
    fresh = random_blob(2, seed=3, last_bytes=CHUNK_SIZE_BYTES)
    newer = make_blob(BLOB.data[: 10 * CHUNK_SIZE_BYTES] + fresh.data)
    rig.downloader.want(newer.spec)
    rig.send_index(newer)
    assert rig.asked()[1:] == [(newer.sha256, 10), (newer.sha256, 11)]
    assert rig.downloader.counters.reused == 10
    rig.send(newer, [10, 11])
    assert rig.downloader.poll() == [Completed(BLOB.sha256), Completed(newer.sha256)]


def test_a_blob_made_of_known_chunks_is_not_asked_for_at_all() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    rig.send_index(BLOB)
    rig.send(BLOB, range(BLOB.count))
    rig.asked()
    turned = make_blob(BLOB.chunk(3) + BLOB.chunk(2))
    rig.downloader.want(turned.spec)
    rig.send_index(turned)
    assert rig.asked() == [(turned.spec.chunk_index[0], 0)]
    assert rig.downloader.poll()[-1] == Completed(turned.sha256)


def test_metadata_without_an_index_is_checked_as_a_whole() -> None:
    rig = Rig()
    blob = random_blob(3)
    rig.downloader.want(BlobSpec(blob.sha256, len(blob.data)))
    assert rig.asked() == [(blob.sha256, index) for index in range(3)]
    rig.send(blob, range(3))
    assert rig.downloader.poll() == [Completed(blob.sha256)]


def test_forged_metadata_is_never_stored_and_asked_for_later_and_later() -> None:
    rig = Rig()
    blob = random_blob(2)
    rig.downloader.want(BlobSpec(blob.sha256, len(blob.data)))
    waits = []
    for _ in range(6):
        assert rig.asked() == [(blob.sha256, 0), (blob.sha256, 1)]
        rig.downloader.on_frame(encode_chunk(Chunk(blob.sha256, 0, bytes(CHUNK_SIZE_BYTES))))
        rig.send(blob, [1])
        assert rig.store.size_bytes() == 0
        start_s = rig.clock.now_s
        rig.wait()
        waits.append(rig.clock.now_s - start_s)
    assert waits == [2, 4, 8, 16, 30, 30]
    rig.send(blob, [0, 1])
    assert rig.downloader.poll() == [Completed(blob.sha256)]


def test_an_index_that_does_not_fit_the_blob_fails_it() -> None:
    rig = Rig()
    spec = BlobSpec("0" * 64, len(BLOB.data), BLOB.spec.chunk_index)
    rig.downloader.want(spec)
    rig.send_index(BLOB)
    for index in range(BLOB.count):
        rig.downloader.on_frame(encode_chunk(Chunk(spec.sha256, index, BLOB.chunk(index))))
    (failed,) = rig.downloader.poll()
    assert isinstance(failed, Failed) and failed.reason is FailureReason.DIGEST_MISMATCH
    assert not rig.store.has(spec.sha256)
    assert rig.store.partials() == []


def test_an_index_of_another_size_fails_the_blob() -> None:
    rig = Rig()
    rig.store.add_bytes(BLOB.levels[0])
    spec = BlobSpec("0" * 64, 3 * CHUNK_SIZE_BYTES, BLOB.spec.chunk_index)
    rig.downloader.want(spec)
    (failed,) = rig.downloader.poll()
    assert isinstance(failed, Failed) and failed.reason is FailureReason.DIGEST_MISMATCH


def test_an_index_damaged_on_disk_is_fetched_again() -> None:
    rig = Rig()
    sha256 = rig.store.add_bytes(BLOB.levels[0])
    rig.files.damage(ROOT / "blobs" / sha256, 3)
    rig.downloader.want(BLOB.spec)
    assert rig.asked() == [(sha256, 0)]


@pytest.mark.parametrize(
    ("error", "reason", "partials"),
    [
        (StorageFullError("no space left"), FailureReason.STORAGE_FULL, 0),
        (StorageFaultError("input/output error", 5), FailureReason.STORAGE_FAILED, 1),
    ],
)
def test_a_disk_that_refuses_fails_the_blob_with_its_reason(
    error: Exception, reason: FailureReason, partials: int
) -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    rig.send_index(BLOB)
    healthy = rig.files.write

    def refuse(handle: int, data: bytes, offset: int) -> None:
        raise error

    rig.files.write = refuse  # type: ignore[method-assign]
    rig.send(BLOB, [0])
    rig.files.write = healthy  # type: ignore[method-assign]
    assert rig.downloader.poll() == [Failed(BLOB.sha256, reason, str(error))]
    assert len(rig.store.partials()) == partials
    assert rig.downloader.next_due() is None
    assert rig.files.open_handles == 0


def test_closing_keeps_what_is_there() -> None:
    rig = Rig()
    rig.downloader.want(BLOB.spec)
    rig.send_index(BLOB)
    rig.send(BLOB, range(4))
    rig.downloader.close()
    assert rig.files.open_handles == 0
    assert rig.downloader.next_due() is None
    partial = rig.store.open_partial(BLOB.sha256, len(BLOB.data), BLOB.digests)
    partial.settle(1 << 30)
    assert list(partial.missing()) == list(range(4, BLOB.count))
