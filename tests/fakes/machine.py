"""File trees of real machines as their kernels document them, with values that a test moves or breaks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

Value = Callable[[], int]


class FakeMachine:
    """A root folder, and a reader that replays values and injects errors in place of some of its files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._values: dict[Path, Value] = {}
        self._errors: dict[Path, int] = {}

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def replay(self, path: str, value: Value) -> None:
        """From now on the file reads what `value` returns."""
        self._values[self.root / path] = value

    def fail(self, path: str, code: int) -> None:
        """From now on reading the file fails with this errno."""
        self._errors[self.root / path] = code

    def mend(self, path: str) -> None:
        """The file reads again."""
        del self._errors[self.root / path]

    def read(self, path: Path) -> str:
        if path in self._errors:
            raise OSError(self._errors[path], os.strerror(self._errors[path]))
        if path in self._values:
            return f"{self._values[path]()}\n"
        return path.read_text()

    def add_ina3221(self, hwmon: str, labels: tuple[str | None, str | None, str | None]) -> None:
        """A chip; a channel without a label is disabled: its files are there and read ENODATA."""
        folder = f"sys/class/hwmon/{hwmon}"
        self.write(f"{folder}/name", "ina3221")
        self.write(f"{folder}/in7_label", "sum of shunt voltages")
        self.write(f"{folder}/in7_input", "99999")
        self.write(f"{folder}/curr4_input", "99999")
        for channel, label in enumerate(labels, 1):
            self.write(f"{folder}/in{channel}_enable", "1" if label else "0")
            self.write(f"{folder}/in{channel}_input", "5000")
            self.write(f"{folder}/curr{channel}_input", "1000")
            if label:
                self.write(f"{folder}/in{channel}_label", label)
            else:
                self.fail(f"{folder}/in{channel}_label", errno.ENODATA)
                self.fail(f"{folder}/in{channel}_input", errno.ENODATA)
                self.fail(f"{folder}/curr{channel}_input", errno.ENODATA)

    def add_rapl(self, zone: str, name: str, energy_uj: int, range_uj: int | None = 262_143_328_850) -> None:
        folder = f"sys/class/powercap/{zone}"
        self.write(f"{folder}/name", name)
        self.write(f"{folder}/energy_uj", str(energy_uj))
        if range_uj is not None:
            self.write(f"{folder}/max_energy_range_uj", str(range_uj))


def orin_nano(root: Path) -> FakeMachine:
    """One monitor, behind two other hwmon devices."""
    machine = FakeMachine(root)
    machine.write("sys/class/hwmon/hwmon0/name", "pwmfan")
    machine.write("sys/class/hwmon/hwmon2/name", "soctherm_oc")
    machine.write("sys/class/hwmon/hwmon2/oc1_event_cnt", "0")
    machine.add_ina3221("hwmon4", ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"))
    return machine


def agx_orin(root: Path) -> FakeMachine:
    """Two monitors without a rail for the total; the second has one channel in use."""
    machine = FakeMachine(root)
    machine.add_ina3221("hwmon3", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))
    machine.add_ina3221("hwmon5", ("NC", "VDDQ_VDD2_1V8AO", None))
    machine.fail("sys/class/hwmon/hwmon5/in1_input", errno.ENODATA)
    return machine


def x86_two_sockets(root: Path) -> FakeMachine:
    """RAPL with nested domains, and the same package once more through memory-mapped registers."""
    machine = FakeMachine(root)
    for socket in (0, 1):
        machine.add_rapl(f"intel-rapl:{socket}", f"package-{socket}", 1_000_000)
        machine.add_rapl(f"intel-rapl:{socket}:0", "core", 400_000)
        machine.add_rapl(f"intel-rapl:{socket}:1", "dram", 100_000, 65_712_999_613)
    machine.add_rapl("intel-rapl-mmio:0", "package-0", 1_000_000)
    return machine
