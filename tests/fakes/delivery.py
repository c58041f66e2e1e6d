"""A chunk server and a clock in one process, joined to downloaders by a wire that may be bad."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from packhorse_agent.contract.chunks import Want, encode_want
from packhorse_agent.contract.topics import WantTopic, blob_shard
from packhorse_agent.transfer import Downloader, DownloadEvent
from packhorse_host.delivery import ChunkServer
from tests.fakes.blobs import MemorySource, SampleBlob

FLEET = "fleet"
DEVICE = "dev-1"

T = TypeVar("T")


class ManualClock:
    """Monotonic seconds that only the test moves."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def perfect(sent: list[T]) -> list[T]:
    """Nothing happens on the way to what was sent together."""
    return sent


class Delivery:
    """Carries wants of one device to a server, and its frames back."""

    def __init__(self, blobs: Iterable[SampleBlob], rate_bytes_per_s: float | None = None) -> None:
        self.clock = ManualClock()
        self.source = MemorySource(blobs)
        self.wants: list[Want] = []
        self.asked: list[Want] = []
        self.frames: list[bytes] = []
        self.want_wire: Callable[[list[Want]], list[Want]] = perfect
        self.frame_wire: Callable[[list[bytes]], list[bytes]] = perfect
        self.rate_bytes_per_s = rate_bytes_per_s
        self.server = self._start_server()

    def restart_server(self) -> None:
        """What the server had queued is lost."""
        self.server.close()
        self.server = self._start_server()

    def lose_all(self) -> None:
        """Forget what is under way, and what was asked for so far."""
        self.frames.clear()
        self.wants.clear()
        self.asked.clear()

    def ask(self, want: Want) -> None:
        """The downloader's port."""
        self.wants.append(want)
        self.asked.append(want)

    def asked_chunks(self) -> list[tuple[str, int]]:
        """(blob, number) of every chunk that was ever asked for."""
        return [
            (want.blob_sha256, index)
            for want in self.asked
            for part in want.ranges
            for index in range(part.start, part.start + part.count)
        ]

    def turn(self, downloader: Downloader) -> bool:
        """Carry everything that is under way once; False when there was nothing."""
        wants, self.wants = self.wants, []
        for want in self.want_wire(wants):
            topic = WantTopic(FLEET, blob_shard(want.blob_sha256), DEVICE)
            self.server.on_want(topic, encode_want(want))
        self.server.tick()
        frames, self.frames = self.frames, []
        for frame in self.frame_wire(frames):
            downloader.on_frame(frame)
        return bool(wants or frames)

    def run(self, downloader: Downloader, until: int, turns_max: int = 20_000) -> list[DownloadEvent]:
        """Carry, and let the clock jump to what is due, until there are `until` events."""
        events = downloader.poll()
        for _ in range(turns_max):
            if len(events) >= until:
                return events
            if not self.turn(downloader):
                due = [due_s for part in (downloader, self.server) if (due_s := part.next_due()) is not None]
                assert due, "nothing is under way and nothing is due"
                self.clock.now_s = max(self.clock.now_s, min(due))
                downloader.tick()
            events += downloader.poll()
        raise AssertionError(f"no end after {turns_max} turns: {events}, {downloader.counters}")

    def _start_server(self) -> ChunkServer:
        return ChunkServer(
            self.source, lambda _, frame: self.frames.append(frame), FLEET, self.clock, self.rate_bytes_per_s
        )
