"""What the device reports: states at once, figures of what it served in aligned windows."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path

from packhorse_agent.config import AgentConfig
from packhorse_agent.contract.messages import Energy, ReportAck, ReportItem, Stream, sketch_from_text
from packhorse_agent.contract.profile import Profile
from packhorse_agent.deploy.slot import SlotRunner
from packhorse_agent.deploy.worker_process import Stats, WorkerProcess
from packhorse_agent.errors import EnvironmentFaultError
from packhorse_agent.inventory import PowerAvailability
from packhorse_agent.measure.power import Unavailable, find_reader
from packhorse_agent.measure.power.sampler import PowerSampler
from packhorse_agent.measure.thermal import hottest
from packhorse_agent.measure.usage import CpuUsage
from packhorse_agent.supervisor.identity import Identity
from packhorse_agent.telemetry.boot import next_boot
from packhorse_agent.telemetry.reporter import Reporter, open_spools
from packhorse_agent.telemetry.spool import Limits, Origin
from packhorse_agent.telemetry.windows import DeviceFigures, Served, Span, Windows, WorkerFigures

_ROOT = Path("/")
_ANSWER_TIMEOUT_S = 2.0
_OPEN_PAUSE_S = 60.0
_UNKEPT_MAX = 256
"""Items that wait in memory while the disk takes none; beyond that the oldest are lost."""

_log = logging.getLogger(__name__)


class Telemetry:
    """Collects, keeps and sends; called from the supervisor's main thread only."""

    def __init__(
        self,
        config: AgentConfig,
        profile: Profile,
        identity: Identity,
        send: Callable[[bytes], bool],
        clock: Callable[[], float],
        wall: Callable[[], datetime],
    ) -> None:
        self._open = partial(_open_reporter, config, identity, send, clock, wall)
        self._reporter: Reporter | None = None
        self._unkept: deque[ReportItem] = deque(maxlen=_UNKEPT_MAX)
        self._open_at_s = clock()
        self._clock = clock
        self._open_if_due()
        self._windows = Windows(config.telemetry.window_s, config.simulate_hardware, clock, wall)
        self._cpu = CpuUsage()
        self._waiting: set[WorkerProcess] = set()
        self._close_by_s: float | None = None
        self._sampler, self.power = _open_power(profile, clock)

    def start(self) -> None:
        """Begin to sample power, where there is a source."""
        if self._sampler:
            self._sampler.start()

    def stop(self) -> None:
        """End the sampling."""
        if self._sampler:
            self._sampler.stop()

    def report(self, *items: ReportItem) -> None:
        """Keep items durably and send them as soon as there is a connection."""
        if self._reporter is not None:
            self._reporter.report(*items)
        else:
            self._unkept.extend(items)

    def on_ack(self, ack: ReportAck) -> None:
        """The host has stored reports."""
        if self._reporter is not None:
            self._reporter.on_ack(ack)

    def on_connected(self) -> None:
        """Send what waits."""
        if self._reporter is not None:
            self._reporter.on_connected()

    def waiting(self) -> Mapping[Stream, int]:
        """Reports of each stream that the host has not stored yet."""
        return self._reporter.waiting() if self._reporter is not None else {}

    def next_due_s(self) -> float | None:
        """When `tick` is next needed, on the monotonic clock."""
        windows_s = self._windows.next_due() if self._close_by_s is None else self._close_by_s
        reporter_s = self._reporter.next_due() if self._reporter is not None else self._open_at_s
        return windows_s if reporter_s is None else min(windows_s, reporter_s)

    def on_stats(self, event: Stats, runners: Mapping[str, SlotRunner]) -> None:
        """Count what a worker did since it was last asked."""
        worker, stats = event.worker, event.stats
        self._waiting.discard(worker)
        runner = runners.get(worker.spec.slot)
        attempt = runner.served_by(worker) if runner else None
        if attempt is None:
            return
        figures = WorkerFigures(
            requests=stats.requests,
            errors=stats.errors,
            rejected_requests=stats.rejected_requests,
            latency=sketch_from_text(stats.latency_us),
            cpu_s=self._cpu.spent_s(worker.pid, stats.cpu_seconds),
            rss_bytes=stats.rss_bytes,
        )
        served = Served(worker.spec.slot, attempt.model, attempt.version, attempt.bundle.sha256)
        self._windows.add(served, figures)

    def tick(self, runners: Mapping[str, SlotRunner]) -> None:
        """Send what is due; at a window's end ask the workers, and close it when they have answered."""
        self._open_if_due()
        if self._reporter is not None:
            self._reporter.tick()
        if self._close_by_s is None and self._windows.due():
            self._ask(runners)
        if self._close_by_s is not None and (not self._waiting or self._clock() >= self._close_by_s):
            self._close()

    def _open_if_due(self) -> None:
        """Without a number of its own, this start has no reports; serving does not wait for that."""
        if self._reporter is not None or self._clock() < self._open_at_s:
            return
        try:
            self._reporter = self._open()
        except EnvironmentFaultError as error:
            _log.error("nothing is reported until the disk takes it: %s", error)
            self._open_at_s = self._clock() + _OPEN_PAUSE_S
            return
        self._reporter.report(*self._unkept)
        self._unkept.clear()

    def _ask(self, runners: Mapping[str, SlotRunner]) -> None:
        workers = [worker for runner in runners.values() if (worker := runner.serving_worker())]
        self._cpu.forget_all_but([worker.pid for worker in workers])
        self._waiting = set(workers)
        self._close_by_s = self._clock() + _ANSWER_TIMEOUT_S
        for worker in workers:
            worker.request_stats()

    def _close(self) -> None:
        span = self._windows.span()
        energy, reason = self._energy(span)
        temperature = hottest(_ROOT)
        device = DeviceFigures(energy, reason, temperature.temperature_c if temperature else None)
        self._close_by_s = None
        self._waiting.clear()
        self.report(*self._windows.close(span, device))

    def _energy(self, span: Span) -> tuple[Energy | None, str]:
        if self._sampler is None:
            return None, self.power.reason
        found = self._sampler.take(span.start_s, span.end_s)
        return (None, found.reason) if isinstance(found, Unavailable) else (found, "")


def _open_reporter(
    config: AgentConfig,
    identity: Identity,
    send: Callable[[bytes], bool],
    clock: Callable[[], float],
    wall: Callable[[], datetime],
) -> Reporter:
    state, settings = config.state_folder, config.telemetry
    origin = Origin(identity.fleet, identity.device_id, next_boot(state / "boot"))
    limits = Limits(settings.spool_max_bytes, settings.spool_max_age_s)
    spools = open_spools(state / "spool", limits, origin, clock, wall)
    return Reporter(spools, identity.key.sign, send, clock)


def _open_power(
    profile: Profile, clock: Callable[[], float]
) -> tuple[PowerSampler | None, PowerAvailability]:
    reader = find_reader(_ROOT, profile)
    if isinstance(reader, Unavailable):
        return None, PowerAvailability((), reader.reason)
    sampler = PowerSampler(reader, clock, random.Random())
    return sampler, PowerAvailability((sampler.source,), "")
