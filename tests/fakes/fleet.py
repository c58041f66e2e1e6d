"""The fleet's side of reporting in its plainest form, and makers of reports."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone

from packhorse_agent.contract.envelope import unseal
from packhorse_agent.contract.messages import (
    DeploymentReport,
    Report,
    ReportAck,
    Stream,
    TelemetryWindow,
    sketch_to_text,
)
from packhorse_agent.contract.sketch import LatencySketch
from packhorse_agent.contract.states import DeploymentState


class FakeTime:
    """A monotonic and a wall clock that move together."""

    def __init__(self, unix_s: float = 1_800_000_000.0) -> None:
        self.now_s = 0.0
        self.unix_s = unix_s

    def clock(self) -> float:
        return self.now_s

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self.unix_s, timezone.utc)

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        self.unix_s += seconds


def fake_sign(message: bytes) -> bytes:
    """Deterministic and of the right length, as Ed25519."""
    return hashlib.sha512(b"key" + message).digest()


def fake_verify(signature: bytes, message: bytes) -> bool:
    return signature == fake_sign(message)


class FakeFleet:
    """Stores each report once, by the highest (boot, sequence) of its stream."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.received = 0
        self._marks: dict[Stream, tuple[int, int]] = {}

    def receive(self, envelope: bytes) -> ReportAck:
        report = unseal(envelope, fake_verify)
        assert report is not None
        self.received += 1
        key = (report.boot, report.sequence)
        if key > self._marks.get(report.stream, (0, 0)):
            self._marks[report.stream] = key
            self.reports.append(report)
        boot, sequence = self._marks[report.stream]
        return ReportAck(stream=report.stream, boot=boot, sequence=sequence)

    @property
    def windows(self) -> list[TelemetryWindow]:
        return [item for report in self.reports for item in report.items if isinstance(item, TelemetryWindow)]

    @property
    def starts(self) -> list[int]:
        """What tells windows apart here."""
        return [window.start_unix_s for window in self.windows]

    @property
    def dropped(self) -> int:
        """Windows that devices say they gave up."""
        return sum(window.dropped_windows for window in self.windows)


def window(number: int, latencies: int = 3) -> TelemetryWindow:
    """The window that starts `number` minutes after the epoch."""
    sketch = LatencySketch()
    for step in range(latencies):
        sketch.add(1000.0 * 1.03**step)
    return TelemetryWindow(
        start_unix_s=number * 60,
        duration_s=60.0,
        slot="detector",
        model="sample",
        version="1.0.0",
        manifest_sha256="0" * 64,
        simulated=True,
        requests=latencies,
        errors=0,
        latency_us=sketch_to_text(sketch),
        cpu_percent=1.5,
        rss_bytes=50_000_000,
        temperature_c=None,
        energy=None,
        energy_reason="no INA3221 under /sys/class/hwmon",
    )


def state(number: int, detail: str = "") -> DeploymentReport:
    return DeploymentReport(
        at_unix_ms=number,
        slot="detector",
        rollout_id="first",
        generation=1,
        model="sample",
        version="1.0.0",
        manifest_sha256="0" * 64,
        state=DeploymentState.DOWNLOADING,
        detail=detail,
        simulated=True,
    )
