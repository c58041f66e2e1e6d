"""When the supervisor's figures are due, and that nothing about them ever makes it spin or stop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from packhorse_agent.config import AgentConfig, TelemetrySettings
from packhorse_agent.contract.envelope import unseal
from packhorse_agent.contract.messages import ReportAck, TelemetryWindow, sketch_to_text
from packhorse_agent.contract.rollout import BundleRef
from packhorse_agent.contract.sketch import LatencySketch
from packhorse_agent.deploy.model import Attempt
from packhorse_agent.deploy.worker_process import Stats
from packhorse_agent.profiles import find_profile
from packhorse_agent.serve.protocol import WorkerStats
from packhorse_agent.store.errors import StorageFullError
from packhorse_agent.supervisor import telemetry as module
from packhorse_agent.supervisor.identity import Identity
from packhorse_agent.supervisor.telemetry import Telemetry
from packhorse_agent.trust.keys import DeviceKey, verify_ed25519
from tests.agent.agents import DEVICE
from tests.agent.supervisor.test_connection import identity
from tests.agent.trust.simulator import FLEET
from tests.fakes.fleet import FakeTime, state

WINDOW_S = 10
ATTEMPT = Attempt(
    rollout_id="r1",
    generation=1,
    model="m",
    version="1.0",
    bundle=BundleRef(target="b", sha256="0" * 64, size_bytes=1),
)


class FakeWorker:
    """Notes what it is asked; the test answers."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.asked = 0
        self.spec = SimpleNamespace(slot="detector")

    def request_stats(self) -> None:
        self.asked += 1

    def answer(self, **changes: Any) -> Stats:
        sketch = LatencySketch()
        sketch.add(1000.0)
        counts = {"requests": 1, "errors": 0, "rejected_requests": 0}
        fields = {**counts, "latency_us": sketch_to_text(sketch)}
        stats = WorkerStats.model_validate({**fields, "cpu_seconds": 0.1, "rss_bytes": 5, **changes})
        return Stats(self, stats)  # type: ignore[arg-type]


class FakeRunner:
    def __init__(self, worker: FakeWorker | None) -> None:
        self.worker = worker

    def serving_worker(self) -> FakeWorker | None:
        return self.worker

    def served_by(self, worker: FakeWorker) -> Attempt | None:
        return ATTEMPT if worker is self.worker else None


class Desk:
    """Telemetry with a clock of ours, and a fleet that may be away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.time = FakeTime(1_800_000_000.0)
        self.online = True
        self.sent: list[bytes] = []
        self.worker = FakeWorker(7)
        self.runners: dict[str, Any] = {"detector": FakeRunner(self.worker)}
        self.identity: Identity = identity(folder)
        self.telemetry = self.new_telemetry()

    def new_telemetry(self) -> Telemetry:
        settings = TelemetrySettings(window_s=WINDOW_S)
        config = AgentConfig(state_folder=self.folder, profile="raspberry-pi-5", telemetry=settings)
        profile = find_profile("raspberry-pi-5")
        return Telemetry(config, profile, self.identity, self.send, self.time.clock, self.time.wall)

    def send(self, envelope: bytes) -> bool:
        if self.online:
            self.sent.append(envelope)
        return self.online

    def tick(self, runners: Mapping[str, Any] | None = None) -> None:
        self.telemetry.tick(self.runners if runners is None else runners)

    def windows(self) -> list[TelemetryWindow]:
        return [item for item in self.items() if isinstance(item, TelemetryWindow)]

    def items(self) -> list[Any]:
        key: DeviceKey = self.identity.key
        reports = [unseal(e, lambda s, m: verify_ed25519(key.public_hex, s, m)) for e in self.sent]
        return [item for report in reports if report for item in report.items]

    def wake_ups(self, seconds: float) -> int:
        """How often the supervisor's loop would tick in so much time, waiting as it is told."""
        end_s, count = self.time.now_s + seconds, 0
        while self.time.now_s < end_s:
            due_s = self.telemetry.next_due_s()
            wait_s = 5.0 if due_s is None else min(max(due_s - self.time.now_s, 0.0), 5.0)
            self.time.advance(max(wait_s, 0.001))
            self.tick()
            count += 1
        return count


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_at_a_windows_end_the_workers_are_asked_and_their_answer_closes_it(desk: Desk) -> None:
    desk.time.advance(WINDOW_S)
    desk.tick()
    assert (desk.worker.asked, desk.windows()) == (1, [])
    desk.telemetry.on_stats(desk.worker.answer(), desk.runners)
    desk.tick()
    (window,) = desk.windows()
    assert (window.slot, window.model, window.requests, window.rss_bytes) == ("detector", "m", 1, 5)
    assert window.energy is None
    assert window.energy_reason != ""


def test_a_worker_that_does_not_answer_holds_the_window_for_a_moment_only(desk: Desk) -> None:
    desk.time.advance(WINDOW_S)
    desk.tick()
    due_s = desk.telemetry.next_due_s()
    assert due_s is not None
    assert desk.time.now_s < due_s <= desk.time.now_s + 2.0
    desk.time.advance(2.0)
    desk.tick()
    desk.time.advance(WINDOW_S - 2.0)
    desk.tick()
    assert desk.worker.asked == 2


def test_without_a_worker_a_window_ends_at_once(desk: Desk) -> None:
    desk.time.advance(WINDOW_S)
    desk.tick({})
    assert desk.telemetry.next_due_s() == desk.time.now_s + WINDOW_S


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("workers", [True, False])
@pytest.mark.parametrize("waiting", [0, 3])
def test_it_never_spins(desk: Desk, online: bool, workers: bool, waiting: int) -> None:
    desk.online = online
    if not workers:
        desk.runners.clear()
    for number in range(waiting):
        desk.telemetry.report(state(number))
    assert desk.wake_ups(600.0) <= 600


def test_reports_wait_for_a_connection_and_for_the_fleets_word(desk: Desk) -> None:
    desk.online = False
    desk.telemetry.report(state(1))
    assert (desk.sent, desk.telemetry.waiting()["state"]) == ([], 1)
    desk.online = True
    desk.telemetry.on_connected()
    assert desk.items() == [state(1)]
    desk.telemetry.on_ack(ReportAck(stream="state", boot=1, sequence=1))
    assert desk.telemetry.waiting()["state"] == 0


def test_the_next_start_has_the_next_number(desk: Desk) -> None:
    desk.telemetry.report(state(1))
    again = desk.new_telemetry()
    again.report(state(2))
    report = unseal(desk.sent[-1], lambda *_: True)
    assert report is not None
    assert (report.fleet, report.device_id, report.boot) == (FLEET, DEVICE, 1)
    again.on_ack(ReportAck(stream="state", boot=1, sequence=1))
    last = unseal(desk.sent[-1], lambda *_: True)
    assert last is not None
    assert (last.boot, last.items) == (2, (state(2),))


def test_the_figures_of_a_worker_that_is_forgotten_do_not_count(desk: Desk) -> None:
    stranger = FakeWorker(8)
    desk.telemetry.on_stats(stranger.answer(), desk.runners)
    desk.telemetry.on_stats(stranger.answer(), {})
    desk.time.advance(WINDOW_S)
    desk.tick({})
    assert desk.windows() == []


def test_what_happens_while_the_disk_takes_nothing_is_reported_when_it_does(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise StorageFullError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(module, "next_boot", full)
        desk.telemetry = desk.new_telemetry()
        desk.telemetry.report(state(1))
        desk.telemetry.on_connected()
        desk.telemetry.on_ack(ReportAck(stream="state", boot=1, sequence=1))
        assert (desk.sent, desk.telemetry.waiting()) == ([], {})
        assert desk.wake_ups(300.0) <= 300
    desk.wake_ups(120.0)
    desk.telemetry.report(state(2))
    assert state(1) in desk.items()
    assert desk.telemetry.waiting()["state"] == 2, "the second is sent when the first is stored"
