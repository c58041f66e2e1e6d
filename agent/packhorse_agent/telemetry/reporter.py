"""Sends what the spools hold, one report of each stream at a time, until the fleet has stored it.

Stop and wait: the fleet tells new reports from repeated ones by the highest (boot, sequence) it has stored,
and brokers may drop a message in the middle without a word, so nothing later may be on its way before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from packhorse_agent.contract.envelope import Sign, seal
from packhorse_agent.contract.messages import ReportAck, ReportItem, Stream, TelemetryWindow
from packhorse_agent.telemetry.spool import Key, Limits, Origin, Spool

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0
"""Without an acknowledgement a report is sent again after 5 s, then after twice as long each time."""

STATE_LIMITS = Limits(max_bytes=1024 * 1024, max_age_s=30 * 86_400.0)
"""The state stream is small and worth keeping long."""

Send = Callable[[bytes], bool]
"""Hand an envelope to the connection; False when there is none."""


def open_spools(
    folder: Path, telemetry: Limits, origin: Origin, clock: Callable[[], float], wall: Callable[[], datetime]
) -> Mapping[Stream, Spool]:
    """Both streams' spools, each in its own folder under `folder`.

    Raises:
        StorageFaultError: a folder cannot be made or read.
    """
    return {
        "state": Spool(folder / "state", "state", STATE_LIMITS, origin, clock=clock, wall=wall),
        "telemetry": Spool(folder / "telemetry", "telemetry", telemetry, origin, clock=clock, wall=wall),
    }


class Reporter:
    """The device's side of reporting; runs on the supervisor's thread."""

    def __init__(
        self, spools: Mapping[Stream, Spool], sign: Sign, send: Send, clock: Callable[[], float]
    ) -> None:
        self._senders = {stream: _Sender(spool, sign, send, clock) for stream, spool in spools.items()}

    def report(self, *items: ReportItem) -> None:
        """Keep items durably, windows in the telemetry stream and all others in the state stream; send."""
        windows = [item for item in items if isinstance(item, TelemetryWindow)]
        states = [item for item in items if not isinstance(item, TelemetryWindow)]
        self._senders["state"].append(states)
        self._senders["telemetry"].append(windows)

    def on_ack(self, ack: ReportAck) -> None:
        """The fleet has stored a stream up to here: go on with the next report."""
        self._senders[ack.stream].on_ack((ack.boot, ack.sequence))

    def on_connected(self) -> None:
        """There is a connection again: send at once what waits."""
        for sender in self._senders.values():
            sender.restart()

    def tick(self) -> None:
        """Send what is due."""
        for sender in self._senders.values():
            sender.tick()

    def next_due(self) -> float | None:
        """When `tick` has something to do, on the monotonic clock; None while nothing waits."""
        return min(
            (due for sender in self._senders.values() if (due := sender.next_due()) is not None), default=None
        )

    def waiting(self) -> Mapping[Stream, int]:
        """How many reports of each stream wait for the fleet."""
        return {stream: len(sender.spool) for stream, sender in self._senders.items()}


class _Sender:
    """Stop and wait for one stream."""

    def __init__(self, spool: Spool, sign: Sign, send: Send, clock: Callable[[], float]) -> None:
        self.spool = spool
        self._sign = sign
        self._send = send
        self._clock = clock
        self._sent: Key | None = None
        self._pause_s = FIRST_PAUSE_S
        self._due_s = 0.0

    def append(self, items: Sequence[ReportItem]) -> None:
        if items:
            self.spool.append(items)
            if self._sent is None:
                self._send_oldest()

    def on_ack(self, key: Key) -> None:
        # The acknowledgement is not signed: it never removes more than what was sent.
        if self._sent is None or key < self._sent:
            return
        self.spool.acknowledge(*self._sent)
        self.restart()

    def restart(self) -> None:
        self._pause_s = FIRST_PAUSE_S
        self._send_oldest()

    def tick(self) -> None:
        if self._clock() >= self._due_s:
            self._send_oldest()

    def next_due(self) -> float | None:
        return self._due_s if len(self.spool) else None

    def _send_oldest(self) -> None:
        report = self.spool.next_report()
        self._sent = None
        if report is None:
            return
        self._due_s = self._clock() + self._pause_s
        if self._send(seal(report, self._sign)):
            self._sent = (report.boot, report.sequence)
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
