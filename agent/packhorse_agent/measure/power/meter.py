"""Energy over any stretch of time, from samples of power or from counters. Pure."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

from packhorse_agent.contract.messages import Energy
from packhorse_agent.measure.power.readings import (
    CounterSample,
    PowerSample,
    Sample,
    Scope,
    Unavailable,
    ZoneCounter,
)

MINIMUM_COVERAGE = 0.95
"""Below this share of the time there is no figure; above it the mean power stands for the rest."""

MAXIMUM_POWER_W = 1000.0
"""More than any zone draws: a counter that could have wrapped twice at this power since is not trusted."""

MAXIMUM_GAP_S = 1.0
"""Power is not interpolated over a longer gap between samples."""

_MAX_SAMPLES = 65_536


class EnergyMeter:
    """Integrates the samples of one source; times are monotonic seconds."""

    def __init__(self, source: str, scope: Scope, max_gap_s: float = MAXIMUM_GAP_S) -> None:
        self._source = source
        self._scope = scope
        self._max_gap_s = max_gap_s
        self._samples: deque[Sample] = deque(maxlen=_MAX_SAMPLES)
        self._last_miss = ""

    def add(self, sample: Sample) -> None:
        """Take the next sample; one that is not later than the last is ignored."""
        if not self._samples or sample.at_s > self._samples[-1].at_s:
            self._samples.append(sample)

    def missed(self, reason: str) -> None:
        """A sample could not be read: the figure says so if it is missing in the end."""
        self._last_miss = reason

    def take(self, start_s: float, end_s: float) -> Energy | Unavailable:
        """Gross energy from `start_s` to `end_s`; forgets what was before `end_s`.

        Power is interpolated linearly between samples (trapezoid rule); a counter's increase is spread
        evenly over its interval. Law: the energies of adjoining stretches add up to that of the whole.
        """
        samples = list(self._samples)
        self._forget(end_s)
        covered_s = energy_uj = 0.0
        for before, after in pairwise(samples):
            low, high = max(before.at_s, start_s), min(after.at_s, end_s)
            part_uj = self._between(before, after, low, high) if high > low else None
            if part_uj is not None:
                covered_s += high - low
                energy_uj += part_uj
        coverage = covered_s / (end_s - start_s) if end_s > start_s else 0.0
        if coverage < MINIMUM_COVERAGE:
            return Unavailable(self._why_not(coverage))
        used = sum(1 for sample in samples if start_s <= sample.at_s <= end_s)
        return Energy(
            source=self._source,
            scope=self._scope,
            energy_uj=energy_uj / coverage,
            energy_per_inference_uj=None,
            samples=used,
        )

    def _forget(self, before_s: float) -> None:
        while len(self._samples) > 1 and self._samples[1].at_s <= before_s:
            self._samples.popleft()

    def _why_not(self, coverage: float) -> str:
        text = f"{self._source} could be read for {coverage:.0%} of the time only"
        return f"{text}; last: {self._last_miss}" if self._last_miss else text

    def _between(self, before: Sample, after: Sample, low: float, high: float) -> float | None:
        gap_s = after.at_s - before.at_s
        if isinstance(before, PowerSample) and isinstance(after, PowerSample):
            return None if gap_s > self._max_gap_s else _trapezoid_uj(before, after, low, high)
        if isinstance(before, CounterSample) and isinstance(after, CounterSample):
            spent_uj = _spent_uj(before.zones, after.zones, gap_s)
            return None if spent_uj is None else spent_uj * (high - low) / gap_s
        return None


def _trapezoid_uj(before: PowerSample, after: PowerSample, low: float, high: float) -> float:
    slope = (after.power_mw - before.power_mw) / (after.at_s - before.at_s)
    middle_mw = before.power_mw + slope * ((low + high) / 2 - before.at_s)
    return middle_mw * (high - low) * 1000.0


def _spent_uj(before: tuple[ZoneCounter, ...], after: tuple[ZoneCounter, ...], gap_s: float) -> float | None:
    total = 0
    for old, new in zip(before, after, strict=True):
        spent = new.energy_uj - old.energy_uj
        if new.range_uj is not None:
            if gap_s * MAXIMUM_POWER_W * 1e6 >= new.range_uj:
                return None
            spent %= new.range_uj
        if spent < 0:
            return None
        total += spent
    return float(total)
