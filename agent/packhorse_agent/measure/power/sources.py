"""Which reader serves which kind of power source, and the choice among those that a profile names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from packhorse_agent.contract.profile import PowerSource, PowerSourceKind, Profile
from packhorse_agent.measure.files import ReadText, read_text
from packhorse_agent.measure.power.ina3221 import probe_ina3221
from packhorse_agent.measure.power.rapl import probe_rapl
from packhorse_agent.measure.power.readings import PowerReader, Unavailable

Probe = Callable[[Path, PowerSource, ReadText], PowerReader | Unavailable]

PROBES: Final[Mapping[PowerSourceKind, Probe]] = MappingProxyType(
    {PowerSourceKind.INA3221: probe_ina3221, PowerSourceKind.RAPL: probe_rapl}
)
"""What this agent can read."""


def probe(root: Path, source: PowerSource, read: ReadText = read_text) -> PowerReader | Unavailable:
    """The reader for one source on the machine whose file system begins at `root`, or why there is none."""
    prober = PROBES.get(source.kind)
    if prober is None:
        return Unavailable(f"{source.kind.value} is a power source that this agent cannot read yet")
    return prober(root, source, read)


def find_reader(root: Path, profile: Profile, read: ReadText = read_text) -> PowerReader | Unavailable:
    """The first source of `profile` that this machine has; otherwise all reasons in one line.

    Simulated hardware changes nothing here: what the machine does not have is not made up.
    """
    if not profile.power_sources:
        return Unavailable(f"profile {profile.name} names no power source")
    reasons: list[str] = []
    for source in profile.power_sources:
        if source.kind not in PROBES:
            reasons.append(
                f"profile {profile.name} names {source.kind.value}, which this agent cannot read yet"
            )
            continue
        found = probe(root, source, read)
        if not isinstance(found, Unavailable):
            return found
        reasons.append(found.reason)
    return Unavailable("; ".join(reasons))
