"""Reports wait in order, within bounds, and what is given up is counted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from packhorse_agent.contract.envelope import seal
from packhorse_agent.contract.limits import REPORT_MAX_BYTES
from packhorse_agent.contract.messages import DeploymentReport, Report, Stream, TelemetryWindow
from packhorse_agent.store.files import Files
from packhorse_agent.telemetry.spool import LOSSES_FILE, Limits, Origin, Spool
from tests.fakes.disk import BrokenFiles, FastFiles, ForgetfulFiles, FullFiles
from tests.fakes.fleet import FakeTime, fake_sign, state, window

KIB = 1024
ROOMY = Limits(max_bytes=10 * KIB * KIB, max_age_s=7 * 86_400.0)


class Bench:
    """Opens the same spool again and again, as starts of the agent do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.time = FakeTime()
        self.boot = 0

    def open(
        self,
        limits: Limits = ROOMY,
        stream: Stream = "telemetry",
        device_id: str = "pi-1",
        files: Files | None = None,
    ) -> Spool:
        self.boot += 1
        origin = Origin("field", device_id, self.boot)
        clock, wall = self.time.clock, self.time.wall
        return Spool(
            self.folder / "spool", stream, limits, origin, clock=clock, wall=wall, files=files or FastFiles()
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def drain(spool: Spool) -> list[Report]:
    reports = []
    while (report := spool.next_report()) is not None:
        reports.append(report)
        spool.acknowledge(report.boot, report.sequence)
    return reports


def numbers(reports: list[Report]) -> list[int]:
    """Which windows, in minutes; states by their time."""
    return [
        item.start_unix_s // 60 if isinstance(item, TelemetryWindow) else item.at_unix_ms
        for report in reports
        for item in report.items
    ]


def dropped(reports: list[Report]) -> int:
    return sum(item.dropped_windows for report in reports for item in report.items if item.kind == "window")


class TestOrder:
    def test_an_empty_spool_has_nothing_to_send(self, bench: Bench) -> None:
        spool = bench.open()
        assert spool.next_report() is None
        assert (len(spool), spool.size_bytes) == (0, 0)

    def test_each_append_is_a_numbered_report(self, bench: Bench) -> None:
        spool = bench.open()
        spool.append([window(1), window(2)])
        spool.append([window(3)])
        first, second = drain(spool)
        assert (first.fleet, first.device_id, first.stream) == ("field", "pi-1", "telemetry")
        assert [(report.boot, report.sequence) for report in (first, second)] == [(1, 1), (1, 2)]
        assert first.items == (window(1), window(2))

    def test_a_report_stays_until_it_is_acknowledged(self, bench: Bench) -> None:
        spool = bench.open()
        spool.append([window(1)])
        spool.append([window(2)])
        assert spool.next_report() == spool.next_report()
        spool.acknowledge(1, 1)
        assert numbers(drain(spool)) == [2]

    def test_an_acknowledgement_covers_all_before_it(self, bench: Bench) -> None:
        spool = bench.open()
        for minute in range(5):
            spool.append([window(minute)])
        spool.acknowledge(1, 3)
        assert numbers(drain(spool)) == [3, 4]

    @pytest.mark.parametrize("key", [(0, 9), (1, 0), (1, -1)])
    def test_an_old_acknowledgement_removes_nothing(self, bench: Bench, key: tuple[int, int]) -> None:
        spool = bench.open()
        spool.append([window(1)])
        spool.acknowledge(*key)
        assert len(spool) == 1

    def test_nothing_to_append_makes_no_report(self, bench: Bench) -> None:
        spool = bench.open()
        spool.append([])
        assert len(spool) == 0


class TestRestart:
    def test_earlier_boots_come_first_under_their_own_numbers(self, bench: Bench) -> None:
        for minute in (1, 2, 3):
            bench.open().append([window(minute)])
        spool = bench.open()
        spool.append([window(4)])
        reports = drain(spool)
        assert [(report.boot, report.sequence) for report in reports] == [(1, 1), (2, 1), (3, 1), (4, 1)]
        assert numbers(reports) == [1, 2, 3, 4]

    def test_the_bytes_of_a_report_are_the_same_on_every_sending(self, bench: Bench) -> None:
        spool = bench.open()
        spool.append([window(1)])
        report = spool.next_report()
        again = bench.open().next_report()
        assert report is not None
        assert again is not None
        assert seal(report, fake_sign) == seal(again, fake_sign)

    def test_scratch_files_and_strangers_are_no_reports(self, bench: Bench) -> None:
        bench.open().append([window(1)])
        folder = bench.folder / "spool"
        scratch = folder / ".0000000001-0000000002.report.tmp"
        scratch.write_bytes(b"half")
        (folder / "notes.txt").write_text("?")
        spool = bench.open()
        assert len(spool) == 1
        assert not scratch.exists()

    def test_a_removal_that_power_loss_undoes_is_sent_again(self, bench: Bench) -> None:
        files = ForgetfulFiles()
        spool = bench.open(files=files)
        spool.append([window(1)])
        spool.append([window(2)])
        spool.acknowledge(1, 1)
        files.lose_power()
        assert numbers(drain(bench.open(files=files))) == [1, 2]

    def test_what_was_given_up_is_not_counted_twice_when_power_loss_brings_it_back(
        self, bench: Bench
    ) -> None:
        files = ForgetfulFiles()
        spool = bench.open(Limits(4 * 4 * KIB, 1e9), files=files)
        for minute in range(6):
            spool.append([window(minute)])
        files.lose_power()
        spool = bench.open(files=files)
        spool.append([window(6)])
        reports = drain(spool)
        assert numbers(reports) == [2, 3, 4, 5, 6]
        assert dropped(reports) == 2


class TestBounds:
    def test_too_many_bytes_give_up_the_oldest_and_the_next_window_says_how_many(self, bench: Bench) -> None:
        spool = bench.open(Limits(8 * 4 * KIB, 1e9))
        for minute in range(20):
            spool.append([window(minute)])
            assert spool.size_bytes <= 8 * 4 * KIB
        spool.append([window(20)])
        reports = drain(spool)
        assert numbers(reports) == list(range(13, 21))
        assert dropped(reports) + spool.lost_windows == 13

    def test_bytes_are_those_on_the_disk(self, bench: Bench) -> None:
        spool = bench.open()
        for minute in range(3):
            spool.append([window(minute, latencies=2000)])
        on_disk = sum(file.stat().st_blocks * 512 for file in (bench.folder / "spool").glob("*.report"))
        assert spool.size_bytes >= on_disk
        assert spool.size_bytes == 3 * 4 * KIB

    def test_the_newest_stays_though_it_alone_is_too_large(self, bench: Bench) -> None:
        spool = bench.open(Limits(1, 1e9))
        spool.append([window(1)])
        spool.append([window(2)])
        assert numbers(drain(spool)) == [2]

    def test_a_count_that_is_itself_given_up_is_counted_on(self, bench: Bench) -> None:
        """However often the spool overflows, nothing is forgotten."""
        spool = bench.open(Limits(2 * 4 * KIB, 1e9))
        for minute in range(30):
            spool.append([window(minute), window(minute)])
        reports = drain(spool)
        assert len(numbers(reports)) + dropped(reports) + spool.lost_windows == 60

    def test_a_smaller_budget_after_a_restart_counts_too(self, bench: Bench) -> None:
        spool = bench.open()
        for minute in range(10):
            spool.append([window(minute)])
        spool = bench.open(Limits(3 * 4 * KIB, 1e9))
        assert spool.lost_windows == 7
        spool.append([window(10)])
        reports = drain(bench.open())
        assert numbers(reports) == [8, 9, 10]
        assert dropped(reports) == 7

    def test_the_count_survives_a_restart_and_is_reported_once(self, bench: Bench) -> None:
        spool = bench.open(Limits(1, 1e9))
        spool.append([window(1)])
        spool.append([window(2)])
        spool = bench.open()
        spool.append([window(3)])
        spool.append([window(4)])
        assert [dropped([report]) for report in drain(bench.open())] == [0, 1, 0]

    def test_the_old_are_given_up(self, bench: Bench) -> None:
        spool = bench.open(Limits(10**9, max_age_s=3600.0))
        for minute in range(90):
            spool.append([window(minute)])
            bench.time.advance(60.0)
        reports = drain(spool)
        assert numbers(reports) == list(range(30, 90))
        assert dropped(reports) + spool.lost_windows == 30

    def test_age_goes_on_while_the_agent_is_off(self, bench: Bench) -> None:
        limits = Limits(10**9, max_age_s=3600.0)
        bench.open(limits).append([window(1)])
        bench.time.advance(1800.0)
        bench.open(limits).append([window(2)])
        bench.time.advance(1801.0)
        assert numbers(drain(bench.open(limits))) == [2]

    def test_a_step_of_the_wall_clock_does_not_age_what_was_just_written(self, bench: Bench) -> None:
        """A device without a clock battery wakes up in 1970 and is set right minutes later."""
        bench.time.unix_s = 100.0
        spool = bench.open(Limits(10**9, max_age_s=3600.0))
        spool.append([window(1)])
        bench.time.unix_s = 1_800_000_000.0
        assert numbers(drain(spool)) == [1]

    def test_the_state_stream_is_bounded_and_counts_nothing(self, bench: Bench) -> None:
        spool = bench.open(Limits(4 * 4 * KIB, 1e9), stream="state")
        for number in range(10):
            spool.append([state(number)])
        assert numbers(drain(spool)) == [6, 7, 8, 9]
        assert spool.lost_windows == 0
        assert not (bench.folder / "spool" / LOSSES_FILE).exists()


class TestSize:
    def test_more_items_than_one_report_takes_make_several(self, bench: Bench) -> None:
        spool = bench.open()
        spool.append([window(minute, latencies=300) for minute in range(600)])
        reports = drain(spool)
        assert numbers(reports) == list(range(600))
        assert len(reports) > 2
        assert all(len(seal(report, fake_sign)) <= REPORT_MAX_BYTES for report in reports)
        assert [report.sequence for report in reports] == list(range(1, len(reports) + 1))

    def test_an_item_that_fits_no_report_is_left_out_and_said(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        spool = bench.open(stream="state")
        with caplog.at_level(logging.ERROR):
            spool.append([state(1), state(2, detail="x" * REPORT_MAX_BYTES), state(3)])
        assert numbers(drain(spool)) == [1, 3]
        assert "larger than a report may be" in caplog.text

    def test_text_that_needs_escapes_is_counted_as_it_is_sent(self, bench: Bench) -> None:
        spool = bench.open(stream="state")
        spool.append([state(number, detail='"\n\u00e4' * 3000) for number in range(20)])
        reports = drain(spool)
        assert numbers(reports) == list(range(20))
        assert all(len(seal(report, fake_sign)) <= REPORT_MAX_BYTES for report in reports)


class TestDamage:
    @pytest.mark.parametrize("damage", [b"", b"PHS1", b"\0" * 700, None])
    def test_a_damaged_report_is_given_up_and_counted(self, bench: Bench, damage: bytes | None) -> None:
        spool = bench.open()
        for minute in range(3):
            spool.append([window(minute)])
        path = bench.folder / "spool" / "0000000001-0000000002.report"
        rotten = bytearray(path.read_bytes())
        rotten[200] ^= 4
        path.write_bytes(rotten if damage is None else damage)
        spool = bench.open()
        assert numbers(drain(spool)) == [0, 2]
        assert spool.lost_windows == 1
        assert not path.exists()

    def test_a_report_that_vanished_is_passed_over(self, bench: Bench) -> None:
        spool = bench.open()
        for minute in range(3):
            spool.append([window(minute)])
        (bench.folder / "spool" / "0000000001-0000000001.report").unlink()
        assert numbers(drain(spool)) == [1, 2]

    def test_a_report_under_another_number_is_given_up(self, bench: Bench) -> None:
        bench.open().append([window(1)])
        folder = bench.folder / "spool"
        (folder / "0000000001-0000000001.report").rename(folder / "0000000001-0000000009.report")
        assert drain(bench.open()) == []

    def test_reports_of_another_device_are_not_sent(self, bench: Bench) -> None:
        """A device that changed hands keeps its old fleet's figures to itself."""
        bench.open(device_id="old").append([window(1)])
        spool = bench.open(device_id="new")
        spool.append([window(2)])
        assert numbers(drain(spool)) == [2]

    def test_an_unreadable_count_of_losses_is_set_aside(self, bench: Bench) -> None:
        bench.open().append([window(1)])
        (bench.folder / "spool" / LOSSES_FILE).write_text("{")
        spool = bench.open()
        assert numbers(drain(spool)) == [1]
        assert (bench.folder / "spool" / f"{LOSSES_FILE}.unreadable-1").exists()


class TestDisk:
    def test_a_full_disk_gives_up_the_older_half_for_the_new(self, bench: Bench) -> None:
        """Two files may be had for each report: the count of losses needs one too."""
        spool = bench.open(files=FullFiles(6))
        for minute in range(6):
            spool.append([window(minute)])
        spool.append([window(6)])
        reports = drain(spool)
        assert numbers(reports)[-1] == 6
        assert len(numbers(reports)) + dropped(reports) + spool.lost_windows == 7

    def test_a_disk_that_stays_full_loses_the_new_and_counts_it(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        files = FullFiles(0)
        spool = bench.open(files=files)
        spool.append([window(1), window(2)])
        assert (len(spool), spool.lost_windows) == (0, 2)
        assert "No space left" in caplog.text
        files.free_files = 10
        spool.append([window(3)])
        reports = drain(spool)
        assert [(report.boot, report.sequence) for report in reports] == [(1, 1)]
        assert dropped(reports) == 2

    def test_a_disk_that_turned_read_only_stops_nothing(self, bench: Bench) -> None:
        """What is there is still sent once each; what comes is counted."""
        files = BrokenFiles()
        spool = bench.open(files=files)
        spool.append([window(1)])
        spool.append([window(2)])
        files.broken = True
        spool.append([window(3)])
        assert numbers(drain(spool)) == [1, 2]
        assert spool.lost_windows == 1

    def test_state_items_keep_their_order_and_type(self, bench: Bench) -> None:
        spool = bench.open(stream="state")
        spool.append([state(1, "a"), state(2, "b")])
        (report,) = drain(spool)
        details = [item.detail for item in report.items if isinstance(item, DeploymentReport)]
        assert details == ["a", "b"]
