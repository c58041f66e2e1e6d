"""Energy of known courses of power comes out within 1 % at 100 Hz over 10 s, or not at all."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.contract.messages import Energy
from packhorse_agent.contract.profile import PowerSource, PowerSourceKind
from packhorse_agent.measure.power import (
    CounterSample,
    EnergyMeter,
    PowerReader,
    PowerSample,
    PowerSampler,
    Unavailable,
    ZoneCounter,
    probe,
)
from tests.fakes.machine import FakeMachine, orin_nano, x86_two_sockets
from tests.fakes.traces import Steps, constant, spikes, square

VOLTAGE_MV, CURRENT_STEP_MA = 5000, 8
RANGE_UJ = 262_143_328_850
TRACES = {
    "constant": constant(5130.0),
    "square": square(5000.0, 10_000.0, period_s=1.0, until_s=70.0),
    "spikes": spikes(5000.0, 9000.0, width_s=0.04, per_s=2.0, until_s=70.0),
}


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def jetson(root: Path, trace: Steps, clock: Clock) -> tuple[FakeMachine, PowerReader]:
    """An Orin Nano whose current follows the trace in the monitor's steps of 8 mA."""
    machine = orin_nano(root)

    def current_ma() -> int:
        return round(trace.power_mw(clock()) * 1000 / VOLTAGE_MV / CURRENT_STEP_MA) * CURRENT_STEP_MA

    machine.replay("sys/class/hwmon/hwmon4/curr1_input", current_ma)
    source = PowerSource(kind=PowerSourceKind.INA3221, scope="module")
    reader = probe(machine.root, source, machine.read)
    assert not isinstance(reader, Unavailable)
    return machine, reader


def x86(root: Path, trace: Steps, clock: Clock, first_uj: int) -> tuple[FakeMachine, PowerReader]:
    """Two sockets that follow the trace each, and wrap."""
    machine = x86_two_sockets(root)
    for socket in (0, 1):
        machine.replay(
            f"sys/class/powercap/intel-rapl:{socket}/energy_uj",
            lambda: int(first_uj + trace.energy_uj(clock())) % RANGE_UJ,
        )
    reader = probe(machine.root, PowerSource(kind=PowerSourceKind.RAPL, scope="package"), machine.read)
    assert not isinstance(reader, Unavailable)
    return machine, reader


def run(sampler: PowerSampler, clock: Clock, until_s: float) -> Energy | Unavailable:
    sampler.sample()
    while (pause_s := sampler.next_pause_s()) + clock.now_s < until_s:
        clock.now_s += pause_s
        sampler.sample()
    clock.now_s = until_s
    return sampler.take(0.0, until_s)


def known(energy: Energy | Unavailable) -> Energy:
    assert isinstance(energy, Energy), energy
    return energy


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", TRACES)
def test_integrated_power_is_right_within_1_percent(tmp_path: Path, name: str, seed: int) -> None:
    clock, trace = Clock(), TRACES[name]
    _, reader = jetson(tmp_path, trace, clock)
    energy = known(run(PowerSampler(reader, clock, Random(seed), interval_s=0.01), clock, 10.0))
    assert energy.energy_uj == pytest.approx(trace.energy_uj(10.0), rel=0.01)
    assert energy.source == "ina3221:VDD_IN"
    assert energy.scope == "module"
    assert energy.samples == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize("name", TRACES)
def test_dropped_samples_are_bridged(tmp_path: Path, name: str) -> None:
    """Every fifth reading fails, and one stretch of a tenth of a second."""
    clock, trace, random = Clock(), TRACES[name], Random(3)
    machine, reader = jetson(tmp_path, trace, clock)
    sampler = PowerSampler(reader, clock, random, interval_s=0.01)
    while clock.now_s < 10.0:
        if random.random() < 0.2 or 4.0 < clock.now_s < 4.1:
            machine.fail("sys/class/hwmon/hwmon4/in1_input", errno.EAGAIN)
            sampler.sample()
            machine.mend("sys/class/hwmon/hwmon4/in1_input")
        else:
            sampler.sample()
        clock.now_s += sampler.next_pause_s()
    clock.now_s = 10.0
    assert known(sampler.take(0.0, 10.0)).energy_uj == pytest.approx(trace.energy_uj(10.0), rel=0.01)


@pytest.mark.parametrize("interval_s", [0.01, 5.0])
@pytest.mark.parametrize("name", TRACES)
def test_counters_are_right_over_a_wrap(tmp_path: Path, name: str, interval_s: float) -> None:
    """Both sockets wrap in the middle; how often they are read does not matter."""
    clock, trace = Clock(), TRACES[name]
    first_uj = RANGE_UJ - int(trace.energy_uj(5.0))
    _, reader = x86(tmp_path, trace, clock, first_uj)
    energy = known(run(PowerSampler(reader, clock, Random(1), interval_s), clock, 10.0))
    assert energy.energy_uj == pytest.approx(2 * trace.energy_uj(10.0), rel=0.01)
    assert energy.scope == "package"


def test_sampling_that_locks_to_the_frame_rate_errs_and_jitter_does_not(tmp_path: Path) -> None:
    """Ten frames a second, sampled ten times a second: the reason why pauses are drawn at random."""
    frames = square(3000.0, 9000.0, period_s=0.1, until_s=60.0)

    class Even(Random):
        def uniform(self, a: float, b: float) -> float:
            return (a + b) / 2

    results = []
    for random in (Even(), Random(5)):
        clock = Clock()
        _, reader = jetson(tmp_path / type(random).__name__, frames, clock)
        clock.now_s = 0.025
        results.append(known(run(PowerSampler(reader, clock, random, interval_s=0.1), clock, 60.0)))
    errors = [abs(result.energy_uj / frames.energy_uj(60.0) - 1) for result in results]
    assert errors[0] > 0.3
    assert errors[1] < 0.06


def test_a_source_that_stops_answering_gives_a_reason(tmp_path: Path) -> None:
    clock = Clock()
    machine, reader = jetson(tmp_path, TRACES["constant"], clock)
    sampler = PowerSampler(reader, clock, Random(1))
    run(sampler, clock, 3.0)
    machine.fail("sys/class/hwmon/hwmon4/in1_input", errno.ENODATA)
    clock.now_s = 13.0
    answer = sampler.take(3.0, 13.0)
    assert isinstance(answer, Unavailable)
    assert answer.reason == (
        "ina3221:VDD_IN could be read for 0% of the time only; last: in1_input: No data available"
    )


def test_the_thread_samples_by_itself_and_ends(tmp_path: Path) -> None:
    """`take` sees samples that nobody asked for; `stop` returns with the thread gone."""
    clock, trace = Clock(), TRACES["constant"]
    machine, reader = jetson(tmp_path, trace, clock)
    three_read = threading.Event()
    moments: list[float] = []

    def current_ma() -> int:
        clock.now_s += 0.1
        moments.append(clock.now_s)
        if len(moments) == 3:
            three_read.set()
        return 1000

    machine.replay("sys/class/hwmon/hwmon4/curr1_input", current_ma)
    sampler = PowerSampler(reader, clock, Random(1), interval_s=0.001)
    sampler.start()
    assert three_read.wait(10.0)
    sampler.stop()
    count = len(moments)
    assert not [thread for thread in threading.enumerate() if thread.name == "power-sampler"]
    assert known(sampler.take(moments[0], moments[-1])).energy_uj > 0
    assert len(moments) == count + 1


def test_stopping_a_sampler_that_never_started_is_fine(tmp_path: Path) -> None:
    clock = Clock()
    PowerSampler(jetson(tmp_path, TRACES["constant"], clock)[1], clock, Random(1)).stop()


class TestMeter:
    def test_no_samples_no_figure(self) -> None:
        assert EnergyMeter("x:y", "rail").take(0.0, 10.0) == Unavailable(
            "x:y could be read for 0% of the time only"
        )

    @pytest.mark.parametrize(("start_s", "end_s"), [(5.0, 5.0), (6.0, 5.0)])
    def test_no_time_no_figure(self, start_s: float, end_s: float) -> None:
        meter = EnergyMeter("x:y", "rail")
        meter.add(PowerSample(0.0, 1.0))
        meter.add(PowerSample(1.0, 1.0))
        assert isinstance(meter.take(start_s, end_s), Unavailable)

    def test_a_long_gap_is_not_interpolated(self) -> None:
        meter = EnergyMeter("x:y", "rail", max_gap_s=2.0)
        for at_s in (0.0, 1.0, 2.0, 6.0, 7.0):
            meter.add(PowerSample(at_s, 1000.0))
        answer = meter.take(0.0, 7.0)
        assert isinstance(answer, Unavailable)
        assert "43%" in answer.reason

    def test_the_mean_power_stands_for_an_uncovered_end(self) -> None:
        meter = EnergyMeter("x:y", "rail")
        for tenth in range(98):
            meter.add(PowerSample(tenth / 10, 2000.0))
        assert known(meter.take(0.0, 10.0)).energy_uj == pytest.approx(20e6)

    def test_samples_out_of_order_are_ignored(self) -> None:
        meter = EnergyMeter("x:y", "rail")
        for at_s, power_mw in ((0.0, 1e3), (1.0, 1e3), (0.5, 9e9), (1.0, 9e9), (2.0, 1e3)):
            meter.add(PowerSample(at_s, power_mw))
        assert known(meter.take(0.0, 2.0)).energy_uj == pytest.approx(2e6)

    def test_a_counter_that_goes_back_without_a_range_drops_the_interval(self) -> None:
        meter = EnergyMeter("x:y", "package")
        for at_s, energy_uj in ((0.0, 100), (5.0, 200), (10.0, 50)):
            meter.add(CounterSample(at_s, (ZoneCounter(energy_uj, None),)))
        answer = meter.take(0.0, 10.0)
        assert isinstance(answer, Unavailable)
        assert "50%" in answer.reason

    def test_a_counter_that_may_have_wrapped_twice_is_not_trusted(self) -> None:
        """65.7 kJ last at least 65.7 s below 1 kW."""
        zone = 65_712_999_613
        for gap_s, trusted in ((60.0, True), (66.0, False)):
            meter = EnergyMeter("x:y", "package")
            meter.add(CounterSample(0.0, (ZoneCounter(10, zone),)))
            meter.add(CounterSample(gap_s, (ZoneCounter(20, zone),)))
            assert isinstance(meter.take(0.0, gap_s), Energy) is trusted

    @given(
        samples=st.lists(st.tuples(st.floats(0.01, 1.9), st.floats(0, 1e5)), min_size=3, max_size=40),
        cut=st.floats(0.05, 0.95),
    )
    def test_energies_of_adjoining_stretches_add_up(
        self, samples: list[tuple[float, float]], cut: float
    ) -> None:
        whole, parts = (EnergyMeter("x:y", "rail", max_gap_s=2.0) for _ in range(2))
        at_s = 0.0
        for pause_s, power_mw in samples:
            for meter in (whole, parts):
                meter.add(PowerSample(at_s, power_mw))
            at_s += pause_s
        end_s = at_s - samples[-1][0]
        middle_s = end_s * cut
        pieces = [known(parts.take(0.0, middle_s)), known(parts.take(middle_s, end_s))]
        total_uj = sum(piece.energy_uj for piece in pieces)
        assert known(whole.take(0.0, end_s)).energy_uj == pytest.approx(total_uj, rel=1e-6, abs=1e-6)
