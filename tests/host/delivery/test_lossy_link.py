"""Downloader and chunk server over wires that lose, double, reorder and corrupt."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packhorse_agent.contract.chunks import Want, chunk_count, index_sizes
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.transfer import BlobSpec, Completed, Downloader
from tests.fakes.blobs import SampleBlob, make_blob, random_blob
from tests.fakes.delivery import DEVICE, Delivery
from tests.fakes.memory_files import Killed, MemoryFiles, PowerLoss

ROOT = Path("/state")
BLOB = random_blob(30)
SHORT = random_blob(11, seed=3)
OTHERS = [random_blob(1, seed=1), make_blob(bytes(5 * CHUNK_SIZE_BYTES)), random_blob(9, seed=2)]


class BadWire:
    """Does to frames what a network and a broker between may do; `random` decides."""

    def __init__(
        self, random_: random.Random, lose: float, double: float, corrupt: float, shuffle: bool
    ) -> None:
        self._random = random_
        self._lose, self._double, self._corrupt = lose, double, corrupt
        self._shuffle = shuffle

    def frames(self, frames: list[bytes]) -> list[bytes]:
        out = [self._spoil(frame) for frame in frames for _ in range(self._copies())]
        return self._mix(out)

    def wants(self, wants: list[Want]) -> list[Want]:
        return self._mix([want for want in wants for _ in range(self._copies())])

    def _copies(self) -> int:
        if self._random.random() < self._lose:
            return 0
        return 2 if self._random.random() < self._double else 1

    def _spoil(self, frame: bytes) -> bytes:
        if self._random.random() >= self._corrupt:
            return frame
        at = self._random.randrange(len(frame))
        change = self._random.choice(("flip", "cut", "grow"))
        if change == "flip":
            return frame[:at] + bytes([frame[at] ^ (1 << self._random.randrange(8))]) + frame[at + 1 :]
        return frame[:at] if change == "cut" else frame + b"\0"

    def _mix(self, items: list) -> list:  # type: ignore[type-arg]
        if self._shuffle:
            self._random.shuffle(items)
        return items


def _downloader(delivery: Delivery, files: MemoryFiles, seed: int = 0) -> Downloader:
    store = BlobStore(ROOT, files, headroom_bytes=0)
    return Downloader(store, delivery.ask, delivery.clock, random.Random(seed))


def _assert_whole(files: MemoryFiles, blobs: list[SampleBlob]) -> None:
    indexes = {digest for blob in blobs for digest in blob.spec.chunk_index}
    assert set(files.entries(ROOT / "blobs")) - indexes == {blob.sha256 for blob in blobs}
    for blob in blobs:
        assert files.content(ROOT / "blobs" / blob.sha256) == blob.data
    assert files.entries(ROOT / "partial") == []


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1 << 32),
    lose=st.floats(0, 0.4),
    double=st.floats(0, 0.3),
    corrupt=st.floats(0, 0.2),
    shuffle=st.booleans(),
)
def test_a_bad_wire_brings_the_right_blobs(
    seed: int, lose: float, double: float, corrupt: float, shuffle: bool
) -> None:
    blobs = [BLOB, *OTHERS]
    delivery, files = Delivery(blobs), MemoryFiles(ROOT)
    wire = BadWire(random.Random(seed), lose, double, corrupt, shuffle)
    delivery.frame_wire, delivery.want_wire = wire.frames, wire.wants
    downloader = _downloader(delivery, files, seed)
    for blob in blobs:
        downloader.want(blob.spec)
    events = delivery.run(downloader, until=len(blobs))
    assert sorted(event.sha256 for event in events) == sorted(blob.sha256 for blob in blobs)
    assert all(isinstance(event, Completed) for event in events)
    _assert_whole(files, blobs)
    assert files.open_handles == 0


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1 << 32),
    double=st.floats(0, 0.5),
    sizes=st.lists(st.integers(1, 12 * CHUNK_SIZE_BYTES), min_size=1, max_size=6, unique=True),
)
def test_without_loss_each_chunk_is_sent_exactly_once(seed: int, double: float, sizes: list[int]) -> None:
    """Even when frames come in another order than they were sent in, and requests come twice."""
    blobs = [make_blob(random.Random(f"{seed} {size}").randbytes(size)) for size in sizes]
    delivery, files = Delivery(blobs), MemoryFiles(ROOT)
    wire = BadWire(random.Random(seed), lose=0, double=double, corrupt=0, shuffle=True)
    delivery.want_wire = wire.wants
    delivery.frame_wire = BadWire(random.Random(seed), 0, 0, 0, shuffle=True).frames
    downloader = _downloader(delivery, files)
    for blob in blobs:
        downloader.want(blob.spec)
    delivery.run(downloader, until=len(blobs))
    _assert_whole(files, blobs)
    expected = sum(blob.count + sum(map(chunk_count, map(len, blob.levels))) for blob in blobs)
    assert delivery.server.counters.chunks_sent == {DEVICE: expected}
    assert downloader.counters.duplicate == downloader.counters.asked_again == 0


def test_a_slow_host_sends_each_chunk_once() -> None:
    """At two seconds a chunk the silence between them is no loss."""
    delivery, files = Delivery([BLOB], rate_bytes_per_s=CHUNK_SIZE_BYTES / 2), MemoryFiles(ROOT)
    downloader = _downloader(delivery, files)
    downloader.want(BLOB.spec)
    assert delivery.run(downloader, until=1) == [Completed(BLOB.sha256)]
    assert delivery.server.counters.chunks_sent == {DEVICE: BLOB.count + 1}


def test_a_restart_of_the_host_costs_only_what_it_had_queued() -> None:
    delivery, files = Delivery([BLOB], rate_bytes_per_s=10 * CHUNK_SIZE_BYTES), MemoryFiles(ROOT)
    downloader = _downloader(delivery, files)
    downloader.want(BLOB.spec)
    for _ in range(30):
        delivery.turn(downloader)
        delivery.clock.now_s += 0.05
    stored = downloader.counters.stored
    assert 3 < stored < BLOB.count
    delivery.restart_server()
    assert delivery.run(downloader, until=1) == [Completed(BLOB.sha256)]
    assert delivery.server.counters.chunks_sent[DEVICE] == BLOB.count + 1 - stored


def test_a_broker_that_forgets_everything_costs_only_what_was_under_way() -> None:
    delivery, files = Delivery([BLOB]), MemoryFiles(ROOT)
    downloader = _downloader(delivery, files)
    downloader.want(BLOB.spec)
    for _ in range(2):
        delivery.turn(downloader)
    delivery.server.tick()
    lost = len(delivery.frames)
    delivery.lose_all()
    downloader.on_connected()
    assert delivery.run(downloader, until=1) == [Completed(BLOB.sha256)]
    assert delivery.server.counters.chunks_sent[DEVICE] <= BLOB.count + 1 + lost


class _Life:
    """One process of an agent, and which chunks of the blob it had verified when it was killed."""

    def __init__(self, delivery: Delivery, files: MemoryFiles) -> None:
        self.delivery = delivery
        self.files = files
        self.verified: set[int] = set()

    def run(self, seed: int) -> bool:
        """Fetch; True when the blob was announced as complete."""
        try:
            downloader = _downloader(self.delivery, self.files, seed)
            downloader.want(SHORT.spec)
            return self.delivery.run(downloader, until=1) == [Completed(SHORT.sha256)]
        except Killed:
            return False


def _spy_on_verified(life: _Life) -> None:
    """A chunk counts as verified from the moment that its bit is written."""
    whole = life.files.write

    def write(handle: int, data: bytes, offset: int) -> None:
        whole(handle, data, offset)
        bitmap = ROOT / "partial" / SHORT.sha256 / "bitmap"
        if life.files.facts(bitmap):
            bits = life.files.content(bitmap)
            life.verified |= {
                i for i in range(SHORT.count) if i >> 3 < len(bits) and bits[i >> 3] >> (i & 7) & 1
            }

    life.files.write = write  # type: ignore[method-assign]


def test_after_a_kill_at_any_boundary_no_verified_chunk_is_fetched_again() -> None:
    finished, kill_at = False, 0
    while not finished:
        delivery, files = Delivery([SHORT]), MemoryFiles(ROOT)
        life = _Life(delivery, files)
        _spy_on_verified(life)
        files.kill_at = kill_at
        finished = life.run(seed=1)
        verified = set(life.verified)
        files.restart()
        delivery.lose_all()
        assert _Life(delivery, files).run(seed=2)
        asked = Counter(delivery.asked_chunks())
        assert not {(SHORT.sha256, index) for index in verified} & set(asked)
        assert not asked or max(asked.values()) == 1
        _assert_whole(files, [SHORT])
        kill_at += 1
    assert kill_at > 2 * SHORT.count


@pytest.mark.parametrize("keeps_names", [False, True])
@pytest.mark.parametrize("keeps_data", [False, True])
def test_after_a_loss_of_power_at_any_boundary_the_blob_is_right(keeps_names: bool, keeps_data: bool) -> None:
    finished, kill_at = False, 0
    while not finished:
        delivery, files = Delivery([SHORT]), MemoryFiles(ROOT)
        files.kill_at = kill_at
        finished = _Life(delivery, files).run(seed=1)
        files.lose_power(PowerLoss(keeps_names, lambda _: keeps_data))
        delivery.lose_all()
        assert _Life(delivery, files).run(seed=2)
        assert not (finished and delivery.asked)
        _assert_whole(files, [SHORT])
        kill_at += 3


@pytest.mark.slow
def test_a_blob_whose_index_has_two_levels(tmp_path: Path) -> None:
    """More than 128 MiB: 2,050 chunks that compress to almost nothing."""
    chunk = bytes(CHUNK_SIZE_BYTES)
    numbered = b"".join(number.to_bytes(4, "big") + chunk[4:] for number in range(2049)) + b"end"
    blob = make_blob(numbered)
    assert len(blob.levels) == len(index_sizes(len(numbered))) == 2
    delivery = Delivery([blob])
    store = BlobStore(tmp_path)
    downloader = Downloader(store, delivery.ask, delivery.clock, random.Random(0))
    downloader.want(blob.spec)
    while downloader.counters.stored < 500:
        delivery.turn(downloader)
    stored = downloader.counters.stored
    downloader.close()
    delivery.lose_all()
    store = BlobStore(tmp_path)
    downloader = Downloader(store, delivery.ask, delivery.clock, random.Random(1))
    downloader.want(blob.spec)
    assert delivery.run(downloader, until=1) == [Completed(blob.sha256)]
    assert len(delivery.asked_chunks()) == blob.count + 3 - stored
    store.verify(blob.sha256)
    assert store.size_bytes() == len(numbered)


def test_metadata_without_index_survives_a_bad_wire() -> None:
    blob = random_blob(16, seed=4)
    delivery, files = Delivery([blob]), MemoryFiles(ROOT)
    wire = BadWire(random.Random(3), lose=0.2, double=0.2, corrupt=0.1, shuffle=True)
    delivery.frame_wire, delivery.want_wire = wire.frames, wire.wants
    downloader = _downloader(delivery, files)
    downloader.want(BlobSpec(blob.sha256, len(blob.data)))
    assert delivery.run(downloader, until=1) == [Completed(blob.sha256)]
    _assert_whole(files, [blob])
