"""x86 RAPL counters through powercap.

`/sys/class/powercap/intel-rapl:*/` (AMD too): `name`, `energy_uj`, which wraps after `max_energy_range_uj`.
Since Linux 5.10 only root may read the counters. Source: the kernel's
Documentation/power/powercap/powercap.rst.
The same package shows again under `intel-rapl-mmio`, which is left out.
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
from packhorse_agent.measure.power.readings import CounterSample, Scope, Unavailable, ZoneCounter

POWERCAP = "sys/class/powercap"
INTERVAL_S = 5.0


@dataclass(frozen=True)
class Zone:
    """One RAPL domain; the folder of a domain inside another begins with that one's name and a colon."""

    name: str
    folder: Path
    range_uj: int | None


@dataclass(frozen=True)
class RaplReader:
    """The counters of domains that do not overlap."""

    zones: tuple[Zone, ...]
    scope: Scope
    read_file: ReadText
    interval_s: float = INTERVAL_S

    @property
    def source(self) -> str:
        """`rapl:` and the names of the domains."""
        return "rapl:" + "+".join(zone.name for zone in self.zones)

    def read(self, now_s: float) -> CounterSample:
        """All counters now.

        Raises:
            ReadFailedError: a counter cannot be read: a part of the sum is worse than no sample.
        """
        counters = (
            ZoneCounter(read_number(zone.folder / "energy_uj", self.read_file), zone.range_uj)
            for zone in self.zones
        )
        return CounterSample(now_s, tuple(counters))


def probe_rapl(root: Path, source: PowerSource, read: ReadText = read_text) -> RaplReader | Unavailable:
    """Find the domains that `source` names, over all sockets; no labels: every package."""
    found = _zones(root, read)
    if not found:
        return Unavailable(
            f"no RAPL domain under /{POWERCAP} (most virtual machines and containers have none)"
        )
    chosen = tuple(zone for zone in found if _wanted(zone.name, source.labels))
    missing = [label for label in source.labels if label not in {zone.name for zone in chosen}]
    if missing or not chosen:
        have = ", ".join(sorted({zone.name for zone in found}))
        return Unavailable(f"no RAPL domain is named {', '.join(missing) or 'package-*'}; there are {have}")
    return _overlap(chosen) or _checked(RaplReader(chosen, source.scope, read))


def _wanted(name: str, labels: tuple[str, ...]) -> bool:
    return name in labels if labels else name.startswith("package-")


def _zones(root: Path, read: ReadText) -> list[Zone]:
    zones: list[Zone] = []
    for folder in sorted((root / POWERCAP).glob("intel-rapl:*")):
        name = read_optional(folder / "name", read)
        if name:
            limit = read_optional(folder / "max_energy_range_uj", read) or ""
            zones.append(Zone(name, folder, int(limit) if limit.isdecimal() and int(limit) > 0 else None))
    return zones


def _overlap(zones: tuple[Zone, ...]) -> Unavailable | None:
    for whole in zones:
        for part in zones:
            nested = part.folder.name.startswith(f"{whole.folder.name}:") and part.name != "dram"
            if nested or (whole.name == "psys" and part is not whole):
                return Unavailable(f"{part.name} is a part of {whole.name}: their sum would count it twice")
    return None


def _checked(reader: RaplReader) -> RaplReader | Unavailable:
    try:
        reader.read(0.0)
    except ReadFailedError as error:
        if error.errno == errno.EACCES:
            return Unavailable("RAPL counters are readable by root only: run the agent as root to have them")
        return Unavailable(f"RAPL: {error}")
    return reader
