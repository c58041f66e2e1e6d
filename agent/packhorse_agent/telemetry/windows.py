"""Aligned windows of time: what each slot did between two marks of the wall clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from packhorse_agent.contract.messages import Energy, TelemetryWindow, sketch_to_text
from packhorse_agent.contract.sketch import LatencySketch


@dataclass(frozen=True)
class Served:
    """What a slot serves: the bundle that figures belong to."""

    slot: str
    model: str
    version: str
    manifest_sha256: str


@dataclass(frozen=True)
class WorkerFigures:
    """What one worker did since it was last asked."""

    requests: int
    errors: int
    rejected_requests: int
    latency: LatencySketch
    cpu_s: float
    rss_bytes: int


@dataclass(frozen=True)
class DeviceFigures:
    """What holds for the whole device over a window."""

    energy: Energy | None
    energy_reason: str
    temperature_c: float | None


@dataclass(frozen=True)
class Span:
    """The time that a window really covers, on the monotonic clock."""

    start_s: float
    end_s: float


class _Sums:
    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.rejected_requests = 0
        self.latency = LatencySketch()
        self.cpu_s = 0.0
        self.rss_bytes = 0

    def add(self, figures: WorkerFigures) -> None:
        self.requests += figures.requests
        self.errors += figures.errors
        self.rejected_requests += figures.rejected_requests
        self.latency.merge(figures.latency)
        self.cpu_s += figures.cpu_s
        self.rss_bytes = max(self.rss_bytes, figures.rss_bytes)


class Windows:
    """Collects figures into the window that is open now.

    A window begins at a multiple of its length on the wall clock, so that those of all devices line up; the
    first one, and one around a step of the clock, is shorter than its length, which `duration_s` says.
    """

    def __init__(
        self, window_s: int, simulated: bool, clock: Callable[[], float], wall: Callable[[], datetime]
    ) -> None:
        self._window_s = window_s
        self._simulated = simulated
        self._clock = clock
        self._wall = wall
        self._open()

    def add(self, served: Served, figures: WorkerFigures) -> None:
        """Count a worker's figures; a slot whose bundle is swapped has a window for each of the two."""
        self._sums.setdefault(served, _Sums()).add(figures)

    def next_due(self) -> float:
        """When the window ends, on the monotonic clock."""
        return self._clock() + (0.0 if self.due() else self._start_unix_s + self._window_s - self._unix_s())

    def due(self) -> bool:
        """Whether the window should be closed now: it is over, or the wall clock was put back."""
        return not self._start_unix_s <= self._unix_s() < self._start_unix_s + self._window_s

    def span(self) -> Span:
        """The stretch that the open window covers if it is closed now: take the energy over it."""
        return Span(self._opened_s, self._clock())

    def close(self, span: Span, device: DeviceFigures) -> list[TelemetryWindow]:
        """End the window at the end of `span` and open the next one; none for slots without figures."""
        duration_s = span.end_s - span.start_s
        if duration_s <= 0:
            return []
        busy = sum(1 for sums in self._sums.values() if sums.latency.count)
        windows = [
            self._window(served, sums, duration_s, device, shared=busy > 1)
            for served, sums in self._sums.items()
        ]
        self._open()
        self._opened_s = span.end_s
        return windows

    def _open(self) -> None:
        self._opened_s = self._clock()
        self._start_unix_s = int(self._unix_s()) // self._window_s * self._window_s
        self._sums: dict[Served, _Sums] = {}

    def _unix_s(self) -> float:
        return self._wall().timestamp()

    def _window(
        self, served: Served, sums: _Sums, duration_s: float, device: DeviceFigures, *, shared: bool
    ) -> TelemetryWindow:
        energy, reason = _share(device, sums.latency.count, shared)
        return TelemetryWindow(
            start_unix_s=self._start_unix_s,
            duration_s=duration_s,
            slot=served.slot,
            model=served.model,
            version=served.version,
            manifest_sha256=served.manifest_sha256,
            simulated=self._simulated,
            requests=sums.requests,
            errors=sums.errors,
            rejected_requests=sums.rejected_requests,
            latency_us=sketch_to_text(sums.latency),
            cpu_percent=100.0 * sums.cpu_s / duration_s,
            rss_bytes=sums.rss_bytes,
            temperature_c=device.temperature_c,
            energy=energy,
            energy_reason=reason,
        )


def _share(device: DeviceFigures, inferences: int, shared: bool) -> tuple[Energy | None, str]:
    """The energy with its part per inference; nobody can tell whose it was when several models ran."""
    if device.energy is None or not inferences:
        return device.energy, device.energy_reason
    if shared:
        return device.energy, "several models ran in this window: no energy per inference"
    each_uj = device.energy.energy_uj / inferences
    return device.energy.model_copy(update={"energy_per_inference_uj": each_uj}), ""
