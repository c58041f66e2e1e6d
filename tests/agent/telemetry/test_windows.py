"""Windows line up with the wall clock and belong to one bundle each."""

from __future__ import annotations

import pytest

from packhorse_agent.contract.messages import Energy, TelemetryWindow, sketch_from_text
from packhorse_agent.contract.sketch import LatencySketch
from packhorse_agent.telemetry.windows import DeviceFigures, Served, Windows, WorkerFigures
from tests.fakes.fleet import FakeTime

DETECTOR = Served("detector", "sample", "1.0.0", "a" * 64)
UPDATED = Served("detector", "sample", "1.1.0", "b" * 64)
WAKE_WORD = Served("wake-word", "other", "2.0.0", "c" * 64)
ENERGY = Energy(
    source="ina3221:VDD_IN", scope="module", energy_uj=3e8, energy_per_inference_uj=None, samples=600
)
NO_POWER = DeviceFigures(None, "no INA3221 under /sys/class/hwmon", 41.5)
POWER = DeviceFigures(ENERGY, "", None)


def figures(
    latencies_us: list[float],
    cpu_s: float = 0.0,
    rss_bytes: int = 0,
    errors: int = 0,
    rejected_requests: int = 0,
) -> WorkerFigures:
    sketch = LatencySketch()
    for latency_us in latencies_us:
        sketch.add(latency_us)
    requests = len(latencies_us) + errors + rejected_requests
    return WorkerFigures(requests, errors, rejected_requests, sketch, cpu_s, rss_bytes)


def close(windows: Windows, device: DeviceFigures = NO_POWER) -> list[TelemetryWindow]:
    return windows.close(windows.span(), device)


@pytest.fixture
def time() -> FakeTime:
    """Seventeen seconds past a full minute."""
    return FakeTime(unix_s=1_800_000_017.0)


@pytest.fixture
def windows(time: FakeTime) -> Windows:
    return Windows(60, True, time.clock, time.wall)


def test_windows_begin_on_the_minute_and_say_how_long_they_were(windows: Windows, time: FakeTime) -> None:
    assert windows.next_due() == 43.0
    time.advance(42.9)
    assert not windows.due()
    time.advance(0.1)
    assert windows.due()
    windows.add(DETECTOR, figures([]))
    (first,) = close(windows)
    assert (first.start_unix_s, first.duration_s) == (1_800_000_000, 43.0)
    assert windows.next_due() == time.now_s + 60.0
    time.advance(60.0)
    windows.add(DETECTOR, figures([]))
    (second,) = close(windows)
    assert (second.start_unix_s, second.duration_s) == (1_800_000_060, 60.0)


def test_a_late_close_loses_no_time(windows: Windows, time: FakeTime) -> None:
    """The workers took two seconds to answer: the next window begins where this one ended."""
    time.advance(45.0)
    span = windows.span()
    time.advance(0.5)
    windows.add(DETECTOR, figures([]))
    (first,) = windows.close(span, NO_POWER)
    assert first.duration_s == 45.0
    assert windows.span().start_s == span.end_s


def test_figures_add_up(windows: Windows, time: FakeTime) -> None:
    windows.add(DETECTOR, figures([100.0, 200.0], cpu_s=4.3, rss_bytes=70, errors=1))
    windows.add(DETECTOR, figures([400.0], cpu_s=4.3, rss_bytes=60, rejected_requests=2))
    time.advance(43.0)
    (one,) = close(windows)
    assert (one.requests, one.errors, one.rejected_requests, one.rss_bytes) == (6, 1, 2, 70)
    assert one.cpu_percent == pytest.approx(20.0)
    assert sketch_from_text(one.latency_us).count == 3
    assert one.simulated
    assert one.temperature_c == 41.5
    assert (one.slot, one.model, one.version, one.manifest_sha256) == (
        "detector",
        "sample",
        "1.0.0",
        "a" * 64,
    )


def test_a_swap_in_the_middle_makes_two_windows(windows: Windows, time: FakeTime) -> None:
    """Figures of the old and the new release are never mixed."""
    windows.add(DETECTOR, figures([100.0]))
    windows.add(UPDATED, figures([300.0, 300.0]))
    time.advance(43.0)
    assert [(one.version, one.requests) for one in close(windows)] == [("1.0.0", 1), ("1.1.0", 2)]


def test_an_idle_slot_is_reported_and_an_absent_one_is_not(windows: Windows, time: FakeTime) -> None:
    time.advance(43.0)
    assert close(windows) == []
    windows.add(DETECTOR, figures([]))
    time.advance(60.0)
    (idle,) = close(windows)
    assert idle.requests == 0
    time.advance(60.0)
    assert close(windows) == []


def test_no_power_source_says_why(windows: Windows, time: FakeTime) -> None:
    windows.add(DETECTOR, figures([100.0]))
    time.advance(43.0)
    (one,) = close(windows)
    assert one.energy is None
    assert one.energy_reason == "no INA3221 under /sys/class/hwmon"


def test_energy_is_shared_by_the_inferences_of_the_only_model(windows: Windows, time: FakeTime) -> None:
    """An idle neighbour does not matter; the errors were no inferences."""
    windows.add(DETECTOR, figures([100.0] * 300, errors=20))
    windows.add(WAKE_WORD, figures([]))
    time.advance(43.0)
    busy, idle = close(windows, POWER)
    assert busy.energy is not None
    assert busy.energy.energy_per_inference_uj == pytest.approx(1e6)
    assert busy.energy_reason == ""
    assert idle.energy == ENERGY


def test_energy_is_not_split_between_models_by_guess(windows: Windows, time: FakeTime) -> None:
    windows.add(DETECTOR, figures([100.0]))
    windows.add(WAKE_WORD, figures([100.0]))
    time.advance(43.0)
    for one in close(windows, POWER):
        assert one.energy == ENERGY
        assert "several models" in one.energy_reason


def test_a_clock_put_back_ends_the_window(windows: Windows, time: FakeTime) -> None:
    time.advance(10.0)
    time.unix_s -= 3600.0
    assert windows.due()
    assert windows.next_due() == time.now_s
    windows.add(DETECTOR, figures([]))
    (one,) = close(windows)
    assert one.duration_s == 10.0
    assert not windows.due()


def test_a_clock_put_forward_ends_the_window(windows: Windows, time: FakeTime) -> None:
    time.advance(10.0)
    time.unix_s += 1e6
    windows.add(DETECTOR, figures([]))
    assert windows.due()
    assert close(windows)[0].duration_s == 10.0
    assert windows.next_due() <= time.now_s + 60.0


def test_no_time_no_window(windows: Windows) -> None:
    windows.add(DETECTOR, figures([100.0]))
    assert close(windows) == []


def test_the_figures_of_a_refused_close_are_kept(windows: Windows, time: FakeTime) -> None:
    windows.add(DETECTOR, figures([100.0]))
    close(windows)
    time.advance(43.0)
    assert close(windows)[0].requests == 1
