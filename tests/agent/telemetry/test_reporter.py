"""One report of each stream is on its way at a time, until the fleet says that it has stored it."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse_agent.contract.envelope import unseal
from packhorse_agent.contract.messages import Report, ReportAck
from packhorse_agent.telemetry.reporter import FIRST_PAUSE_S, LONGEST_PAUSE_S, Reporter, open_spools
from packhorse_agent.telemetry.spool import Limits, Origin
from tests.fakes.fleet import FakeFleet, FakeTime, fake_sign, fake_verify, state, window


class Line:
    """The connection: keeps what was sent, or is down."""

    def __init__(self) -> None:
        self.up = True
        self.sent: list[bytes] = []

    def send(self, envelope: bytes) -> bool:
        if self.up:
            self.sent.append(envelope)
        return self.up

    def take(self) -> list[Report]:
        reports = [unseal(envelope, fake_verify) for envelope in self.sent]
        self.sent.clear()
        return [report for report in reports if report is not None]


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.time = FakeTime()
        self.line = Line()
        self.boot = 0

    def start(self) -> Reporter:
        self.boot += 1
        origin = Origin("field", "pi-1", self.boot)
        limits = Limits(2**20, 1e6)
        spools = open_spools(self.folder / "spool", limits, origin, self.time.clock, self.time.wall)
        return Reporter(spools, fake_sign, self.line.send, self.time.clock)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def ack(stream: str, boot: int, sequence: int) -> ReportAck:
    return ReportAck.model_validate({"stream": stream, "boot": boot, "sequence": sequence})


def keys(reports: list[Report]) -> list[tuple[str, int, int]]:
    return [(report.stream, report.boot, report.sequence) for report in reports]


def test_a_report_goes_out_at_once_and_signed(bench: Bench) -> None:
    bench.start().report(window(1))
    (report,) = bench.line.take()
    assert report.items == (window(1),)


def test_windows_and_states_go_in_their_own_streams(bench: Bench) -> None:
    """A backlog of telemetry never delays a state."""
    reporter = bench.start()
    reporter.report(window(1), state(2), window(3))
    reporter.report(window(4))
    reporter.report(state(5))
    assert keys(bench.line.take()) == [("state", 1, 1), ("telemetry", 1, 1)]
    assert reporter.waiting() == {"state": 2, "telemetry": 2}
    reporter.on_ack(ack("state", 1, 1))
    assert keys(bench.line.take()) == [("state", 1, 2)]


def test_the_next_report_follows_the_acknowledgement(bench: Bench) -> None:
    reporter = bench.start()
    for minute in range(3):
        reporter.report(window(minute))
    for sequence in (1, 2, 3):
        assert keys(bench.line.take()) == [("telemetry", 1, sequence)]
        reporter.on_ack(ack("telemetry", 1, sequence))
    assert bench.line.take() == []
    assert reporter.next_due() is None


def test_without_an_answer_it_is_sent_again_less_and_less_often(bench: Bench) -> None:
    reporter = bench.start()
    reporter.report(window(1))
    (first,) = bench.line.sent
    pauses = []
    for _ in range(7):
        before_s, due_s = bench.time.now_s, reporter.next_due()
        assert due_s is not None
        bench.time.now_s = due_s - 0.001
        reporter.tick()
        assert len(bench.line.sent) == 1
        bench.time.now_s = due_s
        reporter.tick()
        assert bench.line.sent == [first, first]
        bench.line.sent.pop()
        pauses.append(due_s - before_s)
    assert pauses[0] == FIRST_PAUSE_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S


def test_an_answer_makes_it_quick_again(bench: Bench) -> None:
    reporter = bench.start()
    reporter.report(window(1))
    for _ in range(5):
        bench.time.now_s = reporter.next_due() or 0.0
        reporter.tick()
    reporter.report(window(2))
    reporter.on_ack(ack("telemetry", 1, 1))
    assert reporter.next_due() == bench.time.now_s + FIRST_PAUSE_S


def test_offline_everything_is_kept_and_sent_on_the_next_connection(bench: Bench) -> None:
    reporter = bench.start()
    bench.line.up = False
    for minute in range(3):
        reporter.report(window(minute))
        bench.time.advance(60.0)
        reporter.tick()
    assert reporter.waiting()["telemetry"] == 3
    bench.line.up = True
    fleet = FakeFleet()
    reporter.on_connected()
    while bench.line.sent:
        reporter.on_ack(fleet.receive(bench.line.sent.pop()))
    assert fleet.starts == [0, 60, 120]


def test_offline_a_tick_is_never_due_in_the_past(bench: Bench) -> None:
    """Otherwise the agent would spin."""
    reporter = bench.start()
    bench.line.up = False
    reporter.report(window(1))
    for _ in range(3):
        due_s = reporter.next_due()
        assert due_s is not None
        assert due_s > bench.time.now_s
        bench.time.now_s = due_s
        reporter.tick()


def test_a_new_connection_sends_again_what_was_on_its_way(bench: Bench) -> None:
    reporter = bench.start()
    reporter.report(window(1))
    bench.line.take()
    reporter.on_connected()
    assert keys(bench.line.take()) == [("telemetry", 1, 1)]


@pytest.mark.parametrize("key", [(0, 5), (1, 0), (1, 1)])
def test_a_late_acknowledgement_changes_nothing(bench: Bench, key: tuple[int, int]) -> None:
    reporter = bench.start()
    reporter.report(window(1))
    reporter.report(window(2))
    reporter.on_ack(ack("telemetry", 1, 1))
    bench.line.take()
    reporter.on_ack(ack("telemetry", *key))
    assert bench.line.take() == []
    assert reporter.waiting()["telemetry"] == 1


def test_a_forged_acknowledgement_removes_no_more_than_what_was_sent(bench: Bench) -> None:
    """Acknowledgements are not signed: at worst the broker withholds, which it can do anyway."""
    reporter = bench.start()
    for minute in range(4):
        reporter.report(window(minute))
    reporter.on_ack(ack("telemetry", 10**6, 10**6))
    assert reporter.waiting()["telemetry"] == 3
    assert keys(bench.line.take())[-1] == ("telemetry", 1, 2)


def test_an_acknowledgement_before_anything_was_sent_removes_nothing(bench: Bench) -> None:
    reporter = bench.start()
    bench.line.up = False
    reporter.report(window(1))
    reporter.on_ack(ack("telemetry", 10**6, 1))
    assert reporter.waiting()["telemetry"] == 1


def test_the_last_boots_reports_go_first_and_nothing_is_stored_twice(bench: Bench) -> None:
    """The answer to the first sending was lost with the process."""
    fleet = FakeFleet()
    reporter = bench.start()
    reporter.report(window(1))
    reporter.report(window(2))
    fleet.receive(bench.line.sent.pop())
    reporter = bench.start()
    reporter.report(window(3))
    reporter.on_connected()
    while bench.line.sent:
        reporter.on_ack(fleet.receive(bench.line.sent.pop(0)))
    assert fleet.starts == [60, 120, 180]
    assert [report.boot for report in fleet.reports] == [1, 1, 2]


def test_nothing_to_report_sends_nothing(bench: Bench) -> None:
    reporter = bench.start()
    reporter.report()
    reporter.tick()
    reporter.on_connected()
    assert bench.line.sent == []
