"""Courses of power whose energy is known exactly: steps of constant power."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Steps:
    """Power in milliwatts from each moment (seconds) until the next; the last one goes on."""

    starts_s: tuple[float, ...]
    powers_mw: tuple[float, ...]

    def power_mw(self, at_s: float) -> float:
        return self.powers_mw[max(bisect_right(self.starts_s, at_s) - 1, 0)]

    def energy_uj(self, until_s: float) -> float:
        """From 0 to `until_s`."""
        ends = (*self.starts_s[1:], float("inf"))
        parts = zip(self.starts_s, ends, self.powers_mw, strict=True)
        return sum(max(min(end, until_s) - start, 0.0) * power * 1000.0 for start, end, power in parts)


def constant(power_mw: float) -> Steps:
    return Steps((0.0,), (power_mw,))


def square(low_mw: float, high_mw: float, period_s: float, until_s: float) -> Steps:
    count = int(until_s / period_s) * 2 + 2
    return Steps(
        tuple(step * period_s / 2 for step in range(count)),
        tuple(high_mw if step % 2 else low_mw for step in range(count)),
    )


def spikes(low_mw: float, high_mw: float, width_s: float, per_s: float, until_s: float) -> Steps:
    """Short bursts at irregular moments."""
    random = Random(7)
    starts, powers = [0.0], [low_mw]
    for burst in range(int(until_s * per_s)):
        begin = (burst + random.uniform(0.1, 0.8)) / per_s
        starts += [begin, begin + width_s]
        powers += [high_mw, low_mw]
    return Steps(tuple(starts), tuple(powers))
