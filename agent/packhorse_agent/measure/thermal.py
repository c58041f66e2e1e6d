"""Temperatures from `/sys/class/thermal/thermal_zone*/{type,temp}`, the latter in thousandths of a degree.

Source: the kernel's Documentation/driver-api/thermal/sysfs-api.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from packhorse_agent.measure.files import ReadFailedError, ReadText, read_number, read_optional, read_text

THERMAL = "sys/class/thermal"
_PLAUSIBLE_C = (-40.0, 150.0)


@dataclass(frozen=True)
class Temperature:
    """The temperature of one zone."""

    zone: str
    temperature_c: float


def read_temperatures(root: Path, read: ReadText = read_text) -> tuple[Temperature, ...]:
    """All zones that can be read now; a zone that is switched off (EAGAIN, -256 °C) is left out."""
    found: list[Temperature] = []
    for folder in sorted((root / THERMAL).glob("thermal_zone*")):
        zone = read_optional(folder / "type", read)
        try:
            temperature_c = read_number(folder / "temp", read) / 1000.0
        except ReadFailedError:
            continue
        if zone and _PLAUSIBLE_C[0] < temperature_c < _PLAUSIBLE_C[1]:
            found.append(Temperature(zone, temperature_c))
    return tuple(found)


def hottest(root: Path, read: ReadText = read_text) -> Temperature | None:
    """The hottest zone; None where there is none."""
    return max(read_temperatures(root, read), key=lambda one: one.temperature_c, default=None)
