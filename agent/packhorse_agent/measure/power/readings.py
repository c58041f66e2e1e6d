"""What a power source yields, and the protocol that every reader follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

Scope = Literal["rail", "module", "board", "package"]


@dataclass(frozen=True)
class Unavailable:
    """There is no figure, and why."""

    reason: str


@dataclass(frozen=True)
class PowerSample:
    """Power at one moment."""

    at_s: float
    power_mw: float


@dataclass(frozen=True)
class ZoneCounter:
    """One cumulative counter; it wraps to 0 after `range_uj` (None: not known)."""

    energy_uj: int
    range_uj: int | None


@dataclass(frozen=True)
class CounterSample:
    """Cumulative energy of all zones at one moment, in an order that never changes."""

    at_s: float
    zones: tuple[ZoneCounter, ...]


Sample = PowerSample | CounterSample


class PowerReader(Protocol):
    """A source of power figures on this machine."""

    @property
    def source(self) -> str:
        """Reader and labels, such as `ina3221:VDD_IN`."""

    @property
    def scope(self) -> Scope:
        """What the figure covers, as the profile says."""

    @property
    def interval_s(self) -> float:
        """How often to read on average: often for power, seldom for counters."""

    def read(self, now_s: float) -> Sample:
        """One sample, stamped `now_s` (monotonic).

        Raises:
            ReadFailedError: not now.
        """


def overlap(labels: tuple[str, ...], parts: Mapping[str, tuple[str, ...]]) -> Unavailable | None:
    """Refuse labels of which one is a part of another, since their sum would count power twice."""
    for whole in labels:
        for part in parts.get(whole, ()):
            if part in labels:
                return Unavailable(f"{part} is a part of {whole}: their sum would count it twice")
    return None
