"""How much may be asked for, and what is given up as lost. Pure: no clock, no I/O.

Chunks come without acknowledgements and seldom out of order. One is given up when a chunk arrives before it
that was asked for more than a window of chunks later, or when nothing at all arrives for a while. The window
doubles each round trip until the first loss, is halved by a loss and then grows by one chunk a window.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from itertools import takewhile

from packhorse_agent.contract.limits import WINDOW_MAX_CHUNKS, WINDOW_START_CHUNKS

ChunkKey = tuple[str, int]
"""SHA-256 of the blob, number of the chunk."""

WINDOW_MIN_CHUNKS = 4

SILENCE_MIN_S, SILENCE_MAX_S = 1.0, 3.0
"""The first wait is drawn between these, so that many devices do not ask in step."""

BACKOFF_MAX_S = 30.0
_SILENCE_GAPS = 4.0
_GAP_WEIGHT = 1 / 8


class Flow:
    """What is in flight between one device and the host, over all its blobs. Times are seconds."""

    def __init__(self, random: Callable[[], float]) -> None:
        """`random` draws from 0 to 1."""
        self._random = random
        self._in_flight: OrderedDict[ChunkKey, int] = OrderedDict()
        self._window = WINDOW_START_CHUNKS
        self._starting = True
        self._credit = 0
        self._asked = 0
        self._cut_at = 0
        self._since_s = 0.0
        self._gap_s = 0.0
        self._tries = 0
        self._timeout_s = 0.0

    @property
    def window(self) -> int:
        """Chunks that may be in flight at a time."""
        return self._window

    @property
    def in_flight(self) -> Collection[ChunkKey]:
        """Chunks that were asked for and are still expected."""
        return self._in_flight.keys()

    def grant(self) -> int:
        """How many chunks may be asked for now: at least half a window, or none."""
        free = self._window - len(self._in_flight)
        return free if free * 2 >= self._window else 0

    def asked(self, keys: Iterable[ChunkKey], now_s: float) -> None:
        """Requests were sent for `keys`, in this order."""
        if not self._in_flight:
            self._since_s = now_s
            self._draw_timeout()
        for key in keys:
            self._asked += 1
            self._in_flight[key] = self._asked

    def arrived(self, key: ChunkKey, now_s: float) -> list[ChunkKey]:
        """A chunk came that was wanted; returns those that are given up for it."""
        self._gap_s += (now_s - self._since_s - self._gap_s) * _GAP_WEIGHT
        self._since_s = now_s
        self._tries = 0
        self._draw_timeout()
        number = self._in_flight.pop(key, None)
        if number is None:
            return []
        self._grow()
        lost = self._asked_before(number - self._window)
        if lost and max(self._in_flight.pop(key) for key in lost) > self._cut_at:
            self._cut()
        return lost

    def deadline_s(self) -> float | None:
        """When `silent` is due; None while nothing is in flight."""
        return self._since_s + self._timeout_s if self._in_flight else None

    def silent(self) -> list[ChunkKey]:
        """Nothing came until the deadline: give up all, wait twice as long next time."""
        tries = self._tries
        lost = self.restart()
        self._tries = tries + 1
        self._window = WINDOW_START_CHUNKS
        self._starting = True
        return lost

    def restart(self) -> list[ChunkKey]:
        """Give up all that is in flight, with no blame: the way there was interrupted."""
        lost = list(self._in_flight)
        self._in_flight.clear()
        self._tries = 0
        return lost

    def forget(self, sha256: str) -> list[ChunkKey]:
        """Give up one blob's chunks."""
        lost = [key for key in self._in_flight if key[0] == sha256]
        for key in lost:
            del self._in_flight[key]
        return lost

    def _asked_before(self, number: int) -> list[ChunkKey]:
        return [key for key, _ in takewhile(lambda item: item[1] < number, self._in_flight.items())]

    def _grow(self) -> None:
        self._credit += 1
        if self._starting or self._credit >= self._window:
            self._credit = 0
            self._window = min(self._window + 1, WINDOW_MAX_CHUNKS)

    def _cut(self) -> None:
        self._cut_at = self._asked
        self._starting = False
        self._credit = 0
        self._window = max(self._window // 2, WINDOW_MIN_CHUNKS)

    def _draw_timeout(self) -> None:
        first_s = SILENCE_MIN_S + self._random() * (SILENCE_MAX_S - SILENCE_MIN_S)
        patient_s = max(first_s * 2 ** min(self._tries, 8), self._gap_s * _SILENCE_GAPS)
        self._timeout_s = min(patient_s, BACKOFF_MAX_S)
