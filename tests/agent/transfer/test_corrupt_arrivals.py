"""What only ever comes damaged: asked for again for a while, and then no more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from packhorse_agent.contract.chunks import Chunk, encode_chunk
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_agent.contract.states import FailureReason
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.transfer import BlobSpec, Completed, Downloader, DownloadEvent, Failed
from packhorse_agent.transfer.corruption import CORRUPT_MAX, CORRUPT_PATIENCE_S
from tests.fakes.blobs import SampleBlob, random_blob
from tests.fakes.delivery import Delivery
from tests.fakes.memory_files import MemoryFiles

ROOT = Path("/state")
BLOB = random_blob(20)
MINUTES_S = 600.0


class Rig:
    """A downloader and a host, with a wire that damages the chunks that a test names."""

    def __init__(self, *blobs: SampleBlob) -> None:
        self.delivery = Delivery(blobs)
        self.files = MemoryFiles(ROOT)
        store = BlobStore(ROOT, self.files, headroom_bytes=0)
        clock = self.delivery.clock
        self.downloader = Downloader(store, self.delivery.ask, clock, random.Random(1))
        self.start_s = clock.now_s

    def damage(self, sha256: str, index: int, until_s: float = float("inf")) -> None:
        bad = encode_chunk(Chunk(sha256, index, bytes(CHUNK_SIZE_BYTES)))
        head = encode_chunk(Chunk(sha256, index, b""))[:12]

        def wire(frames: list[bytes]) -> list[bytes]:
            if self.elapsed_s() >= until_s:
                return frames
            return [
                bad if (frame[4:8], frame[12:44]) == (head[4:8], bad[12:44]) else frame for frame in frames
            ]

        self.delivery.frame_wire = wire

    def elapsed_s(self) -> float:
        return self.delivery.clock.now_s - self.start_s

    def outcome(self, spec: BlobSpec) -> DownloadEvent:
        self.downloader.want(spec)
        [event] = self.delivery.run(self.downloader, until=1)
        return event


@pytest.mark.parametrize("index", [0, 7, 18])
def test_a_chunk_that_always_comes_damaged_fails_the_blob_within_minutes(index: int) -> None:
    rig = Rig(BLOB)
    rig.damage(BLOB.sha256, index)
    outcome = rig.outcome(BLOB.spec)
    assert isinstance(outcome, Failed) and outcome.reason is FailureReason.DOWNLOAD_CORRUPT
    assert f"chunk {index} of blob {BLOB.sha256} came corrupt" in outcome.detail
    assert CORRUPT_PATIENCE_S <= rig.elapsed_s() < MINUTES_S
    assert rig.downloader.next_due() is None
    assert rig.files.open_handles == 0


def test_a_chunk_that_always_comes_torn_fails_the_blob_within_minutes() -> None:
    """Such a frame cannot be read, but it says which chunk it was."""
    rig = Rig(BLOB)
    torn = encode_chunk(Chunk(BLOB.sha256, 4, BLOB.chunk(4)))[:-1]
    rig.delivery.frame_wire = lambda frames: [torn if frame[:-1] == torn else frame for frame in frames]
    outcome = rig.outcome(BLOB.spec)
    assert isinstance(outcome, Failed) and outcome.reason is FailureReason.DOWNLOAD_CORRUPT
    assert rig.elapsed_s() < MINUTES_S


def test_a_short_disturbance_fails_nothing() -> None:
    rig = Rig(BLOB)
    rig.damage(BLOB.sha256, 5, until_s=CORRUPT_PATIENCE_S - 5)
    assert rig.outcome(BLOB.spec) == Completed(BLOB.sha256)


@pytest.mark.parametrize("blob", [random_blob(1, last_bytes=CHUNK_SIZE_BYTES), random_blob(3)])
def test_metadata_that_always_comes_damaged_fails_within_minutes(blob: SampleBlob) -> None:
    rig = Rig(blob)
    rig.damage(blob.sha256, 0)
    outcome = rig.outcome(BlobSpec(blob.sha256, len(blob.data)))
    assert isinstance(outcome, Failed) and outcome.reason is FailureReason.DOWNLOAD_CORRUPT
    assert rig.elapsed_s() < MINUTES_S


def test_frames_that_nobody_asked_for_end_nothing() -> None:
    """A chunk outside the window, sent by whoever can write to the device's topic."""
    rig = Rig(BLOB)
    rig.downloader.want(BLOB.spec)
    rig.delivery.turn(rig.downloader)  # the index has come
    for _ in range(10 * CORRUPT_MAX):
        rig.delivery.clock.now_s += CORRUPT_PATIENCE_S
        rig.downloader.on_frame(encode_chunk(Chunk(BLOB.sha256, 19, bytes(100))))
    assert rig.downloader.counters.corrupt == 10 * CORRUPT_MAX
    assert rig.delivery.run(rig.downloader, until=1) == [Completed(BLOB.sha256)]


def test_another_blob_is_not_held_up() -> None:
    other = random_blob(9, seed=4)
    rig = Rig(BLOB, other)
    rig.damage(BLOB.sha256, 3)
    rig.downloader.want(BLOB.spec)
    rig.downloader.want(other.spec)
    events = rig.delivery.run(rig.downloader, until=2)
    assert events[0] == Completed(other.sha256)
    assert isinstance(events[1], Failed)
