"""The hottest readable zone counts; what is switched off does not."""

from __future__ import annotations

import errno
from pathlib import Path

from packhorse_agent.measure.thermal import Temperature, hottest, read_temperatures
from tests.fakes.machine import FakeMachine


def machine_with(root: Path, **zones: str) -> FakeMachine:
    machine = FakeMachine(root)
    for number, (name, value) in enumerate(zones.items()):
        machine.write(f"sys/class/thermal/thermal_zone{number}/type", name)
        machine.write(f"sys/class/thermal/thermal_zone{number}/temp", value)
    machine.write("sys/class/thermal/cooling_device0/type", "pwm-fan")
    return machine


def test_the_hottest_zone_is_named(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, cpu="51250", gpu="64500", soc="48000")
    assert hottest(machine.root) == Temperature("gpu", 64.5)
    assert len(read_temperatures(machine.root)) == 3


def test_zones_below_zero_are_real(tmp_path: Path) -> None:
    assert hottest(machine_with(tmp_path, cpu="-12500").root) == Temperature("cpu", -12.5)


def test_zones_that_are_off_or_broken_are_left_out(tmp_path: Path) -> None:
    """Jetsons read -256 °C or EAGAIN where an engine is powered down."""
    machine = machine_with(tmp_path, cv0="-256000", cv1="1", cpu="40000", odd="warm", hot="300000")
    machine.fail("sys/class/thermal/thermal_zone1/temp", errno.EAGAIN)
    assert read_temperatures(machine.root, machine.read) == (Temperature("cpu", 40.0),)


def test_a_zone_without_a_readable_name_is_left_out(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, cpu="40000")
    machine.fail("sys/class/thermal/thermal_zone0/type", errno.EACCES)
    assert hottest(machine.root, machine.read) is None


def test_no_zones(tmp_path: Path) -> None:
    assert hottest(tmp_path) is None
