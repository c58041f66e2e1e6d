"""The chunk server: takes requests in, sends chunks out, on each device's own topic."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from packhorse_agent.contract.chunks import Reply, ReplyKind, Want, decode_want, encode_reply
from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES, WINDOW_MAX_CHUNKS
from packhorse_agent.contract.topics import DeviceChannel, DeviceTopic, WantTopic, blob_shard
from packhorse_host.delivery.bucket import TokenBucket
from packhorse_host.delivery.damage import AskedChunks, DamageWatch, FindSigned
from packhorse_host.delivery.fair_queue import ChunkKey, FairQueue
from packhorse_host.delivery.source import BlobSource, FrameReader
from packhorse_host.errors import ConfigError

QUEUED_MAX_CHUNKS = 4 * WINDOW_MAX_CHUNKS
"""Chunks that wait for one device; an honest one asks for a quarter of this."""

TICK_MAX_CHUNKS = WINDOW_MAX_CHUNKS
"""Chunks that one `tick` sends, so that the caller's loop stays responsive."""

BURST_S = 0.1
"""How much of the rate may go out at once."""

DEVICES_REMEMBERED_MAX = 16_384
REQUESTS_REMEMBERED = 32
_UNREADABLE_RETRY_MS = 5_000
_BUSY_MIN_MS, _BUSY_MAX_MS = 1_000, 60_000

_log = logging.getLogger(__name__)


@dataclass
class ServerCounters:
    """What was asked and what was done about it, since the start of the process."""

    chunks_sent: Counter[str] = field(default_factory=Counter)
    """By device."""
    bytes_sent: int = 0
    """Frames of chunks."""
    malformed: int = 0
    """Requests that are none of ours, on a wrong topic, or for chunks that do not exist."""
    repeated: int = 0
    """Requests that the broker delivered again."""
    not_found: int = 0
    busy: int = 0
    unreadable: int = 0
    """Chunks that the source would not give."""
    damaged: int = 0
    """Requests for blobs whose file is not what was signed."""


class ChunkServer:
    """Serves blobs to devices; one thread calls it. Data goes out at QoS 0.

    `send(topic, payload)` must not raise and may drop; `ready()` says whether it would take more now.
    """

    def __init__(
        self,
        source: BlobSource,
        send: Callable[[str, bytes], None],
        fleet: str,
        clock: Callable[[], float],
        rate_bytes_per_s: float | None = None,
        ready: Callable[[], bool] = lambda: True,
        find_signed: FindSigned = lambda sha256: None,
    ) -> None:
        """`clock` is monotonic, in seconds; a rate of None is no limit.

        What a device asks for again is held against what `find_signed` says of the blob.

        Raises:
            ConfigError: a rate that is not positive.
        """
        self.counters = ServerCounters()
        self._reader = FrameReader(source)
        self._send = send
        self._fleet = fleet
        self._clock = clock
        self._ready = ready
        self._rate_bytes_per_s = rate_bytes_per_s
        self._bucket = _make_bucket(rate_bytes_per_s, clock())
        self._queue = FairQueue(QUEUED_MAX_CHUNKS)
        self._requests: OrderedDict[str, deque[int]] = OrderedDict()
        self._asked = AskedChunks()
        self._damage = DamageWatch(source, find_signed)

    def on_want(self, topic: WantTopic, frame: bytes) -> None:
        """Queue what a device asks for; what is malformed is counted and ignored. `tick` sends."""
        try:
            want = decode_want(frame)
        except MalformedMessageError:
            self.counters.malformed += 1
            return
        if topic.fleet != self._fleet or topic.shard != blob_shard(want.blob_sha256):
            self.counters.malformed += 1
        elif self._is_repeated(topic.device_id, want.request_id):
            self.counters.repeated += 1
        else:
            self._take_in(topic.device_id, want)

    def tick(self) -> None:
        """Send what is queued, as far as the rate and the connection allow."""
        for _ in range(TICK_MAX_CHUNKS):
            now_s = self._clock()
            if self._bucket and self._bucket.due_s(now_s) > now_s:
                return
            if not self._queue or not self._ready():
                return
            self._send_next(now_s)

    def next_due(self) -> float | None:
        """When `tick` has something to do, by the clock; None while nothing is queued."""
        if not self._queue:
            return None
        now_s = self._clock()
        return self._bucket.due_s(now_s) if self._bucket else now_s

    def close(self) -> None:
        """Close the source's streams."""
        self._reader.close()

    def _take_in(self, device_id: str, want: Want) -> None:
        try:
            chunks = self._reader.chunks_in(want.blob_sha256)
        except OSError as error:
            self._unreadable(device_id, want.blob_sha256, error)
            return
        if chunks is None:
            self.counters.not_found += 1
            self._reply(device_id, Reply(want.blob_sha256, ReplyKind.NOT_FOUND))
            return
        wanted = list(_first_chunks(want, chunks))
        if self._is_damaged(device_id, want.blob_sha256, wanted):
            return
        if not wanted:
            self.counters.malformed += 1
        elif self._queue.offer(device_id, wanted):
            self._asked.note(device_id, want.blob_sha256, [index for _, index in wanted], chunks)
        else:
            self.counters.busy += 1
            self._reply(device_id, Reply(want.blob_sha256, ReplyKind.BUSY, self._retry_after_ms()))

    def _is_damaged(self, device_id: str, sha256: str, wanted: list[ChunkKey]) -> bool:
        """Whether what was sent before, and did not please, is damaged here; then the device is told so."""
        again = self._asked.again(device_id, sha256, (index for _, index in wanted))
        if wanted and not again and not self._damage.suspects(sha256):
            return False
        self._reader.forget(sha256, again)  # the file may have been mended meanwhile
        if not self._damage.is_damaged(sha256, again):
            return False
        self.counters.damaged += 1
        self._queue.drop(device_id, sha256)
        self._reply(device_id, Reply(sha256, ReplyKind.NOT_FOUND))
        return True

    def _send_next(self, now_s: float) -> None:
        taken = self._queue.take()
        if taken is None:
            return
        device_id, (sha256, index) = taken
        try:
            frame = self._reader.frame(sha256, index)
        except OSError as error:
            self._queue.drop(device_id, sha256)
            self._unreadable(device_id, sha256, error)
            return
        if self._bucket:
            self._bucket.take(len(frame), now_s)
        self._send(self._topic(device_id), frame)
        self.counters.chunks_sent[device_id] += 1
        self.counters.bytes_sent += len(frame)

    def _is_repeated(self, device_id: str, request_id: int) -> bool:
        seen = self._requests.setdefault(device_id, deque(maxlen=REQUESTS_REMEMBERED))
        self._requests.move_to_end(device_id)
        if len(self._requests) > DEVICES_REMEMBERED_MAX:
            self._requests.popitem(last=False)
        if request_id in seen:
            return True
        seen.append(request_id)
        return False

    def _unreadable(self, device_id: str, sha256: str, error: OSError) -> None:
        self.counters.unreadable += 1
        _log.warning("blob %s cannot be read: %s", sha256, error)
        self._reply(device_id, Reply(sha256, ReplyKind.BUSY, _UNREADABLE_RETRY_MS))

    def _retry_after_ms(self) -> int:
        if not self._rate_bytes_per_s:
            return _BUSY_MIN_MS
        backlog_s = len(self._queue) * CHUNK_SIZE_BYTES / self._rate_bytes_per_s
        return int(min(max(backlog_s * 1000, _BUSY_MIN_MS), _BUSY_MAX_MS))

    def _reply(self, device_id: str, reply: Reply) -> None:
        self._send(self._topic(device_id), encode_reply(reply))

    def _topic(self, device_id: str) -> str:
        return str(DeviceTopic(self._fleet, device_id, DeviceChannel.DATA))


def _make_bucket(rate_bytes_per_s: float | None, now_s: float) -> TokenBucket | None:
    if rate_bytes_per_s is None:
        return None
    if rate_bytes_per_s <= 0:
        raise ConfigError(f"the delivery rate must be positive, not {rate_bytes_per_s} bytes per second")
    return TokenBucket(rate_bytes_per_s, rate_bytes_per_s * BURST_S, now_s)


def _first_chunks(want: Want, chunks: int) -> Iterator[ChunkKey]:
    left = min(want.window, WINDOW_MAX_CHUNKS)
    for part in want.ranges:
        stop = min(part.start + part.count, part.start + left, chunks)
        yield from ((want.blob_sha256, index) for index in range(part.start, stop))
        left -= max(0, stop - part.start)
