"""INA3221 monitors as on Jetson modules, through hwmon.

Per channel 1 to 3: `inN_label`, `inN_input` (bus voltage, mV), `currN_input` (mA). Channel 7 is the sum of
the shunt voltages, no rail. A disabled channel reads ENODATA. Source: the kernel's
Documentation/hwmon/ina3221.rst.
Rails are matched by label, since hwmon numbers change from boot to boot.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from packhorse_agent.contract.profile import PowerSource
from packhorse_agent.measure.files import (
    ReadFailedError,
    ReadText,
    read_number,
    read_optional,
    read_text,
)
from packhorse_agent.measure.power.readings import PowerSample, Scope, Unavailable, overlap

HWMON = "sys/class/hwmon"
INTERVAL_S = 0.1
_TOTAL = ("VDD_IN",)
_PARTS = {"VDD_IN": ("VDD_CPU_GPU_CV", "VDD_SOC"), "VIN_SYS_5V0": ("VDDQ_VDD2_1V8AO",)}
_CHANNELS = (1, 2, 3)


@dataclass(frozen=True)
class Rail:
    """One channel of one chip."""

    label: str
    voltage_file: Path
    current_file: Path

    def power_mw(self, read: ReadText) -> float:
        """Voltage times current; raises `ReadFailedError`."""
        return read_number(self.voltage_file, read) * read_number(self.current_file, read) / 1000.0


@dataclass(frozen=True)
class Ina3221Reader:
    """The summed power of rails that do not overlap."""

    rails: tuple[Rail, ...]
    scope: Scope
    read_file: ReadText
    interval_s: float = INTERVAL_S

    @property
    def source(self) -> str:
        """`ina3221:` and the labels that are summed."""
        return "ina3221:" + "+".join(rail.label for rail in self.rails)

    def read(self, now_s: float) -> PowerSample:
        """Power of all rails now.

        Raises:
            ReadFailedError: a rail cannot be read: a part of the sum is worse than no sample.
        """
        return PowerSample(now_s, sum(rail.power_mw(self.read_file) for rail in self.rails))


def probe_ina3221(root: Path, source: PowerSource, read: ReadText = read_text) -> Ina3221Reader | Unavailable:
    """Find the rails that `source` names, over all chips; no labels: the total `VDD_IN`."""
    found = _rails(root, read)
    if not found:
        return Unavailable(f"no INA3221 under /{HWMON}")
    labels = source.labels or _TOTAL
    if problem := overlap(labels, _PARTS):
        return problem
    rails: list[Rail] = []
    for label in labels:
        matching = [rail for rail in found if rail.label == label]
        if len(matching) != 1:
            have = ", ".join(sorted({rail.label for rail in found}))
            return Unavailable(f"{len(matching)} INA3221 rails are labelled {label}; there are {have}")
        rails += matching
    return _checked(Ina3221Reader(tuple(rails), source.scope, read))


def _rails(root: Path, read: ReadText) -> list[Rail]:
    rails: list[Rail] = []
    for chip in sorted((root / HWMON).glob("hwmon*")):
        if read_optional(chip / "name", read) != "ina3221":
            continue
        for channel in _CHANNELS:
            label = read_optional(chip / f"in{channel}_label", read)
            if label:
                rails.append(Rail(label, chip / f"in{channel}_input", chip / f"curr{channel}_input"))
    return rails


def _checked(reader: Ina3221Reader) -> Ina3221Reader | Unavailable:
    for rail in reader.rails:
        try:
            rail.power_mw(reader.read_file)
        except ReadFailedError as error:
            if error.errno == errno.EAGAIN:
                continue
            state = "is disabled" if error.errno == errno.ENODATA else "cannot be read"
            return Unavailable(f"INA3221 rail {rail.label} {state}: {error}")
    return reader
