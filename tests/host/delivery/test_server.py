"""The chunk server against requests that a test hands it."""

from __future__ import annotations

import io
from typing import BinaryIO

import pytest

from packhorse_agent.contract.chunks import (
    Chunk,
    ChunkRange,
    Reply,
    ReplyKind,
    Want,
    decode_frame,
    encode_want,
)
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES, MQTT_PAYLOAD_MAX_BYTES, WINDOW_MAX_CHUNKS
from packhorse_agent.contract.topics import DeviceChannel, DeviceTopic, WantTopic, blob_shard, parse_topic
from packhorse_host.delivery import ChunkServer
from packhorse_host.delivery.server import DEVICES_REMEMBERED_MAX, QUEUED_MAX_CHUNKS, TICK_MAX_CHUNKS
from packhorse_host.delivery.source import FRAMES_KEPT_MAX, OPEN_BLOBS_MAX
from packhorse_host.errors import ConfigError
from tests.fakes.blobs import MemorySource, SampleBlob, make_blob, random_blob
from tests.fakes.delivery import FLEET, ManualClock

BLOB = random_blob(100)


class Rig:
    """A server, and what it sent."""

    def __init__(self, *blobs: SampleBlob, rate_bytes_per_s: float | None = None) -> None:
        self.source = MemorySource(blobs or [BLOB])
        self.clock = ManualClock()
        self.ready = True
        self.sent: list[tuple[str, Chunk | Reply]] = []
        self.server = ChunkServer(
            self.source, self._send, FLEET, self.clock, rate_bytes_per_s, ready=lambda: self.ready
        )
        self._request_id = 0

    def want(
        self, *ranges: tuple[int, int], device: str = "a", blob: SampleBlob = BLOB, window: int = 64
    ) -> None:
        self._request_id += 1
        parts = tuple(ChunkRange(start, count) for start, count in ranges)
        self.hand_in(Want(blob.sha256, self._request_id, window, parts, merged=False), device)

    def hand_in(self, want: Want, device: str = "a") -> None:
        topic = WantTopic(FLEET, blob_shard(want.blob_sha256), device)
        self.server.on_want(topic, encode_want(want))

    def chunks(self, device: str = "a") -> list[int]:
        """Numbers of the chunks that a device got."""
        return [frame.index for to, frame in self.sent if to == device and isinstance(frame, Chunk)]

    def replies(self, device: str = "a") -> list[Reply]:
        return [frame for to, frame in self.sent if to == device and isinstance(frame, Reply)]

    def _send(self, topic: str, frame: bytes) -> None:
        assert len(frame) <= MQTT_PAYLOAD_MAX_BYTES
        parsed = parse_topic(topic)
        assert isinstance(parsed, DeviceTopic)
        assert (parsed.fleet, parsed.channel) == (FLEET, DeviceChannel.DATA)
        self.sent.append((parsed.device_id, decode_frame(frame)))


def test_what_is_asked_for_is_sent_in_order() -> None:
    rig = Rig()
    rig.want((2, 2), (99, 1))
    rig.server.tick()
    assert rig.chunks() == [2, 3, 99]
    assert [frame.raw for _, frame in rig.sent if isinstance(frame, Chunk)] == [
        BLOB.chunk(index) for index in (2, 3, 99)
    ]
    assert rig.server.counters.chunks_sent == {"a": 3}
    assert rig.server.next_due() is None


def test_only_the_window_is_sent() -> None:
    rig = Rig()
    rig.want((10, 5), (50, 10), window=7)
    rig.server.tick()
    assert rig.chunks() == [10, 11, 12, 13, 14, 50, 51]


def test_no_window_is_wider_than_the_limit() -> None:
    rig = Rig()
    rig.want((0, 100), window=65_535)
    for _ in range(3):
        rig.server.tick()
    assert rig.chunks() == list(range(WINDOW_MAX_CHUNKS))


@pytest.mark.parametrize("ranges", [((98, 100),), ((98, 2), (100, 5)), ((0xFFFFFFFF, 0xFFFFFFFF), (98, 2))])
def test_chunks_that_do_not_exist_are_left_out(ranges: tuple[tuple[int, int], ...]) -> None:
    rig = Rig()
    rig.want(*ranges)
    rig.server.tick()
    assert rig.chunks() == [98, 99]


@pytest.mark.parametrize("ranges", [((100, 1),), ((0xFFFFFFFF, 0xFFFFFFFF),), ()])
def test_a_request_for_nothing_that_exists_is_malformed(ranges: tuple[tuple[int, int], ...]) -> None:
    rig = Rig()
    rig.want(*ranges)
    rig.server.tick()
    assert rig.sent == []
    assert rig.server.counters.malformed == 1


@pytest.mark.parametrize("frame", [b"", b"PW", b"PC" + bytes(100), bytes(44), b"PW\x01\x00" + b"\xff" * 40])
def test_a_malformed_request_is_counted_and_ignored(frame: bytes) -> None:
    rig = Rig()
    rig.server.on_want(WantTopic(FLEET, 0, "a"), frame)
    rig.server.tick()
    assert rig.sent == []
    assert rig.server.counters.malformed == 1


@pytest.mark.parametrize(("fleet", "shift"), [("other", 0), (FLEET, 1)])
def test_a_request_on_a_wrong_topic_is_counted_and_ignored(fleet: str, shift: int) -> None:
    rig = Rig()
    shard = (blob_shard(BLOB.sha256) + shift) % 16
    want = Want(BLOB.sha256, 1, 1, (ChunkRange(0, 1),), merged=False)
    rig.server.on_want(WantTopic(fleet, shard, "a"), encode_want(want))
    rig.server.tick()
    assert rig.sent == []
    assert rig.server.counters.malformed == 1


def test_a_request_delivered_twice_is_served_once() -> None:
    rig = Rig()
    want = Want(BLOB.sha256, 77, 64, (ChunkRange(0, 2),), merged=False)
    rig.hand_in(want)
    rig.server.tick()
    rig.hand_in(want)
    rig.server.tick()
    assert rig.chunks() == [0, 1]
    assert rig.server.counters.repeated == 1


def test_the_same_request_id_of_another_device_is_another_request() -> None:
    rig = Rig()
    want = Want(BLOB.sha256, 77, 64, (ChunkRange(0, 2),), merged=False)
    rig.hand_in(want, "a")
    rig.hand_in(want, "b")
    rig.server.tick()
    assert rig.chunks("a") == rig.chunks("b") == [0, 1]


def test_asking_again_for_what_still_waits_sends_it_once() -> None:
    rig = Rig()
    rig.want((0, 3))
    rig.want((0, 4))
    rig.server.tick()
    assert rig.chunks() == [0, 1, 2, 3]


def test_asking_again_for_what_was_sent_sends_it_again() -> None:
    rig = Rig()
    for _ in range(2):
        rig.want((0, 1))
        rig.server.tick()
    assert rig.chunks() == [0, 0]


def test_a_blob_that_is_not_there_is_said_so_at_once() -> None:
    rig = Rig()
    other = random_blob(2, seed=9)
    rig.want((0, 1), blob=other)
    assert rig.replies() == [Reply(other.sha256, ReplyKind.NOT_FOUND)]
    assert rig.server.counters.not_found == 1


def test_a_blob_that_is_published_later_is_found_then() -> None:
    rig = Rig()
    other = random_blob(2, seed=9)
    rig.want((0, 1), blob=other)
    rig.source.add(other)
    rig.want((0, 1), blob=other)
    rig.server.tick()
    assert rig.chunks() == [0]


def test_devices_take_turns() -> None:
    rig = Rig()
    rig.want((0, 3), device="a")
    rig.want((0, 3), device="b")
    rig.server.tick()
    assert [to for to, _ in rig.sent] == ["a", "b", "a", "b", "a", "b"]


def test_a_device_that_asks_for_too_much_is_told_to_wait() -> None:
    rig = Rig(random_blob(QUEUED_MAX_CHUNKS + 20))
    blob = random_blob(QUEUED_MAX_CHUNKS + 20)
    for start in range(0, QUEUED_MAX_CHUNKS, 64):
        rig.want((start, 64), blob=blob)
    rig.want((QUEUED_MAX_CHUNKS, 1), blob=blob)
    assert rig.replies() == [Reply(blob.sha256, ReplyKind.BUSY, 1000)]
    assert rig.server.counters.busy == 1
    rig.want((0, 1), blob=blob, device="b")
    assert rig.replies("b") == []


def test_one_tick_is_bounded_and_more_is_due_at_once() -> None:
    rig = Rig()
    rig.want((0, 60), device="a")
    rig.want((0, 60), device="b")
    rig.server.tick()
    assert len(rig.sent) == TICK_MAX_CHUNKS
    assert rig.server.next_due() == rig.clock.now_s


def test_a_connection_that_is_full_gets_nothing_more() -> None:
    rig = Rig()
    rig.want((0, 2))
    rig.ready = False
    rig.server.tick()
    assert rig.sent == []
    rig.ready = True
    rig.server.tick()
    assert rig.chunks() == [0, 1]


def test_the_rate_holds_over_all_devices() -> None:
    rate = 10 * CHUNK_SIZE_BYTES
    rig = Rig(rate_bytes_per_s=rate)
    rig.want((0, 60), device="a")
    rig.want((0, 60), device="b")
    start_s = rig.clock.now_s
    while (due_s := rig.server.next_due()) is not None:
        rig.clock.now_s = max(rig.clock.now_s, due_s)
        rig.server.tick()
    elapsed_s = rig.clock.now_s - start_s
    assert len(rig.sent) == 120
    assert rig.server.counters.bytes_sent / elapsed_s == pytest.approx(rate, rel=0.05)


def test_a_busy_reply_says_how_long_the_backlog_takes() -> None:
    blob = random_blob(QUEUED_MAX_CHUNKS + 20)
    rig = Rig(blob, rate_bytes_per_s=QUEUED_MAX_CHUNKS * CHUNK_SIZE_BYTES / 20)
    for start in range(0, QUEUED_MAX_CHUNKS, 64):
        rig.want((start, 64), blob=blob)
    rig.want((QUEUED_MAX_CHUNKS, 1), blob=blob)
    assert rig.replies() == [Reply(blob.sha256, ReplyKind.BUSY, 20_000)]


@pytest.mark.parametrize("rate_bytes_per_s", [0, -1.0])
def test_a_rate_that_never_sends_is_refused(rate_bytes_per_s: float) -> None:
    with pytest.raises(ConfigError):
        Rig(rate_bytes_per_s=rate_bytes_per_s)


def test_compressible_chunks_are_sent_compressed() -> None:
    blob = make_blob(b"packhorse " * 20_000)
    rig = Rig(blob)
    rig.want((0, 3), blob=blob)
    rig.server.tick()
    assert rig.chunks() == [0, 1, 2]
    assert rig.server.counters.bytes_sent < 10_000


class _Counting(MemorySource):
    opened = 0
    streams: list[BinaryIO]

    def open_blob(self, sha256: str) -> BinaryIO | None:
        self.opened += 1
        stream = super().open_blob(sha256)
        if stream is not None:
            self.streams.append(stream)
        return stream


def test_streams_and_frames_that_are_kept_are_bounded() -> None:
    blobs = [random_blob(8, seed=seed) for seed in range(OPEN_BLOBS_MAX + 4)]
    source = _Counting(blobs)
    source.streams = []
    clock = ManualClock()
    server = ChunkServer(source, lambda topic, frame: None, FLEET, clock)
    for number, blob in enumerate(blobs):
        want = Want(blob.sha256, number, 64, (ChunkRange(0, 8),), merged=False)
        server.on_want(WantTopic(FLEET, blob_shard(blob.sha256), "a"), encode_want(want))
        server.tick()
    assert source.opened == len(blobs)
    assert sum(not stream.closed for stream in source.streams) == OPEN_BLOBS_MAX
    assert len(server._reader._frames) == FRAMES_KEPT_MAX
    server.close()
    assert all(stream.closed for stream in source.streams)


def test_a_fleet_that_asks_for_the_same_chunk_reads_it_once() -> None:
    class Once(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1, /) -> bytes:
            Once.reads += 1
            return super().read(size)

    rig = Rig()
    rig.source.open_blob = lambda sha256: Once(BLOB.data)  # type: ignore[method-assign]
    for number in range(50):
        rig.want((0, 1), device=f"dev-{number}")
    rig.server.tick()
    assert len(rig.sent) == 50
    assert Once.reads == 1


def test_a_source_that_fails_makes_the_device_wait_and_recovers() -> None:
    rig = Rig()
    healthy = rig.source.open_blob

    def fail(sha256: str) -> BinaryIO | None:
        raise OSError(5, "Input/output error")

    rig.source.open_blob = fail  # type: ignore[method-assign]
    rig.want((0, 2))
    rig.server.tick()
    assert [reply.kind for reply in rig.replies()] == [ReplyKind.BUSY]
    assert rig.server.counters.unreadable == 1
    rig.source.open_blob = healthy  # type: ignore[method-assign]
    rig.want((0, 2))
    rig.server.tick()
    assert rig.chunks() == [0, 1]


def test_a_blob_that_is_cut_short_makes_the_device_wait_once() -> None:
    rig = Rig()

    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(size)[:-1]

    rig.source.open_blob = lambda sha256: Shrinking(BLOB.data)  # type: ignore[method-assign]
    rig.want((0, 10))
    rig.server.tick()
    assert rig.chunks() == []
    assert [reply.kind for reply in rig.replies()] == [ReplyKind.BUSY]
    assert rig.server.next_due() is None


def test_memory_of_requests_is_bounded() -> None:
    rig = Rig()
    for number in range(DEVICES_REMEMBERED_MAX + 10):
        rig.hand_in(Want("0" * 64, 1, 1, (ChunkRange(0, 1),), merged=False), f"dev-{number}")
    assert len(rig.server._requests) == DEVICES_REMEMBERED_MAX
