"""A kill or a loss of power at any moment: nothing is lost, nothing counts twice, losses are counted once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packhorse_agent.contract.envelope import seal
from packhorse_agent.contract.messages import ReportAck
from packhorse_agent.store.files import Files
from packhorse_agent.telemetry.boot import next_boot
from packhorse_agent.telemetry.reporter import Reporter
from packhorse_agent.telemetry.spool import Limits, Origin, Spool
from tests.fakes.disk import FastFiles, Killed, MortalFiles
from tests.fakes.fleet import FakeFleet, FakeTime, fake_sign, window

BLOCK = 4096
ROOMY = Limits(2**30, 1e9)


class Device:
    """An agent's reporting that starts, works and dies; knows what it was given."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self.limits = limits
        self.time = FakeTime()
        self.fleet = FakeFleet()
        self.begun = 0
        self.kept = 0

    def start(self, files: Files) -> Spool:
        self.folder.mkdir(parents=True, exist_ok=True)
        boot = next_boot(self.folder / "boot", files=files)
        origin = Origin("field", "pi-1", boot)
        clock, wall = self.time.clock, self.time.wall
        folder = self.folder / "spool"
        return Spool(folder, "telemetry", self.limits, origin, clock=clock, wall=wall, files=files)

    def append(self, spool: Spool, count: int = 1) -> None:
        for _ in range(count):
            self.begun += 1
            spool.append([window(self.begun)])
            self.kept = self.begun
            self.time.advance(60.0)

    def send(self, spool: Spool, count: int = 10**9) -> None:
        """The fleet stores, answers, and the report is removed."""
        while count and (report := spool.next_report()) is not None:
            ack = self.fleet.receive(seal(report, fake_sign))
            spool.acknowledge(ack.boot, ack.sequence)
            count -= 1

    def check(self, begun: int, kept: int, answered: bool) -> None:
        """After a kill, one more window and a drain: what was kept is stored, or counted as lost, once.

        Where the kill came between the fleet's storing and the removal, that report may count as both.
        """
        spool = self.start(FastFiles())
        self.append(spool)
        self.send(spool)
        stored = self.stored()
        assert stored == sorted(set(stored))
        accounted = len(stored) + self.fleet.dropped + spool.lost_windows - 1
        assert accounted in (kept, begun) or (not answered and accounted > kept)

    def all_answered(self) -> bool:
        """Whether no report that the fleet has stored is still on the disk."""
        on_disk = {path.stem for path in (self.folder / "spool").glob("*.report")}
        return not on_disk & {f"{one.boot:010d}-{one.sequence:010d}" for one in self.fleet.reports}

    def stored(self) -> list[int]:
        return [start // 60 for start in self.fleet.starts]


def busy_day(device: Device, files: Files) -> None:
    """Everything a spool does: append, send, overflow, restart, report losses."""
    spool = device.start(files)
    device.append(spool, 2)
    device.send(spool, 1)
    device.append(spool, 6)
    spool = device.start(files)
    device.append(spool, 1)
    device.send(spool, 2)
    device.append(spool, 3)
    device.send(spool)


def count_changes(folder: Path) -> int:
    files = MortalFiles()
    busy_day(Device(folder, Limits(4 * BLOCK, 1e9)), files)
    return files.changes


def test_a_kill_at_every_boundary_loses_nothing_uncounted(tmp_path: Path) -> None:
    """Each window is stored once or counted as given up once, whichever call the kill precedes."""
    total = count_changes(tmp_path / "dry-run")
    assert total > 50
    for dies_at in range(1, total + 1):
        device = Device(tmp_path / str(dies_at), Limits(4 * BLOCK, 1e9))
        with pytest.raises(Killed):
            busy_day(device, MortalFiles(dies_at))
        device.check(device.begun, device.kept, device.all_answered())


def test_two_kills_in_a_row_lose_nothing_uncounted(tmp_path: Path) -> None:
    """The recovery from a kill is killed too, at each of its boundaries."""
    total = count_changes(tmp_path / "dry-run")
    random = Random(11)
    for round_number in range(60):
        device = Device(tmp_path / str(round_number), Limits(4 * BLOCK, 1e9))
        with pytest.raises(Killed):
            busy_day(device, MortalFiles(random.randint(1, total)))
        begun, kept, answered = device.begun, device.kept, device.all_answered()
        for dies_at in range(1, 12):
            try:
                device.start(MortalFiles(dies_at))
            except Killed:
                continue
            break
        device.check(begun, kept, answered)


def test_a_day_offline_with_five_kills(tmp_path: Path) -> None:
    """One window a minute for 24 hours; then every one of them is stored, once, in order."""
    device, random = Device(tmp_path, ROOMY), Random(5)
    minutes = sorted(random.sample(range(1, 1440), 5))
    while device.begun < 1440:
        files = MortalFiles()
        spool = device.start(files)
        next_kill = minutes.pop(0) if minutes else None
        if next_kill is None:
            device.append(spool, 1440 - device.begun)
            break
        device.append(spool, next_kill - device.begun - 1)
        files.dies_at = files.changes + random.randint(1, 4)
        with pytest.raises(Killed):
            device.append(spool)
        device.begun = device.kept
    spool = device.start(FastFiles())
    device.send(spool)
    assert len(spool) == 0
    assert device.stored() == list(range(1, 1441))
    assert device.fleet.dropped == 0
    boots = [report.boot for report in device.fleet.reports]
    assert boots == sorted(boots)
    assert set(boots) == {1, 2, 3, 4, 5, 6}


class _Line:
    """A broker that loses sendings and answers as it is told."""

    def __init__(self, fleet: FakeFleet, luck: Callable[[], str]) -> None:
        self.fleet = fleet
        self.luck = luck
        self.answers: list[tuple[int, int]] = []

    def send(self, envelope: bytes) -> bool:
        fate = self.luck()
        if fate == "refused":
            return False
        if fate != "lost":
            ack = self.fleet.receive(envelope)
            if fate != "answer lost":
                self.answers.append((ack.boot, ack.sequence))
        return True


FATES = st.sampled_from(["arrives", "arrives", "lost", "answer lost", "refused"])
STEPS = st.lists(st.sampled_from(["report", "tick", "kill", "connect"]), max_size=40)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, data=st.data())
def test_any_course_of_losses_and_kills_stores_each_window_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], data: st.DataObject
) -> None:
    device = Device(tmp_path_factory.mktemp("device"), ROOMY)
    line = _Line(device.fleet, lambda: data.draw(FATES))

    def start() -> Reporter:
        line.answers.clear()
        spool = device.start(FastFiles())
        other = Spool(
            device.folder / "state",
            "state",
            ROOMY,
            Origin("field", "pi-1", 1),
            clock=device.time.clock,
            wall=device.time.wall,
            files=FastFiles(),
        )
        return Reporter({"telemetry": spool, "state": other}, fake_sign, line.send, device.time.clock)

    def answer(reporter: Reporter) -> None:
        while line.answers:
            boot, sequence = line.answers.pop(0)
            reporter.on_ack(ReportAck(stream="telemetry", boot=boot, sequence=sequence))

    reporter = start()
    for step in steps:
        if step == "report":
            device.begun += 1
            reporter.report(window(device.begun))
        elif step == "tick":
            device.time.advance(61.0)
            reporter.tick()
        elif step == "connect":
            reporter.on_connected()
        else:
            reporter = start()
        answer(reporter)
    line.luck = lambda: "arrives"
    reporter.on_connected()
    answer(reporter)
    assert device.stored() == list(range(1, device.begun + 1))


CHILD = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from packhorse_agent.telemetry.boot import next_boot
    from packhorse_agent.telemetry.spool import Limits, Origin, Spool
    from tests.fakes.fleet import FakeTime, window

    folder, first = Path(sys.argv[1]), int(sys.argv[2])
    time = FakeTime()
    origin = Origin("field", "pi-1", next_boot(folder / "boot"))
    spool = Spool(folder / "spool", "telemetry", Limits(2**30, 1e9), origin, clock=time.clock, wall=time.wall)
    for number in range(first, 10**9):
        spool.append([window(number)])
        print(number, flush=True)
    """
)


def test_a_real_process_killed_while_it_writes_keeps_what_it_kept(tmp_path: Path) -> None:
    """SIGKILL, three times: each window whose `append` had returned is there afterwards."""
    kept: list[int] = []
    for _ in range(3):
        first = kept[-1] + 1 if kept else 1
        command = [sys.executable, "-c", CHILD, str(tmp_path), str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment()) as child:
            assert child.stdout is not None
            kept += [int(child.stdout.readline()) for _ in range(15)]
            child.send_signal(signal.SIGKILL)
            kept += [int(line) for line in child.stdout if line.endswith("\n")]
    device = Device(tmp_path, ROOMY)
    device.send(device.start(FastFiles()))
    stored = device.stored()
    assert set(kept) <= set(stored)
    assert {report.boot for report in device.fleet.reports} == {1, 2, 3}


def _environment() -> dict[str, str]:
    """The child finds the same modules as this process."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
