"""Two models timed against each other in interleaved pairs.

On a shared machine a latency drifts more from second to second than two models differ. Each pair is timed
back to back, in an order that alternates, so that what slows the machine slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from packhorse_agent.contract.manifest import Interval
from packhorse_agent.contract.measurement import LatencySummary
from packhorse_host.evaluate.intervals import bootstrap

WARM_UP_PAIRS: Final = 10
PAIRS_MIN: Final = 30
PAIRS_MAX: Final = 300
DIGITS: Final = 3


@dataclass(frozen=True)
class Race:
    """Latencies of two models over the same pairs of inferences."""

    fp32: LatencySummary
    bundle: LatencySummary
    speedup: float
    """Median FP32 latency divided by median bundle latency."""
    speedup_ci95: Interval


def race(
    fp32: Callable[[], object],
    bundle: Callable[[], object],
    *,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Race:
    """Time two inferences pair by pair, for about `budget_s` seconds, at least `PAIRS_MIN` pairs."""
    _warm_up(fp32, bundle, clock() + budget_s / 4, clock)
    deadline = clock() + budget_s
    pairs: list[tuple[float, float]] = []
    while len(pairs) < PAIRS_MIN or (len(pairs) < PAIRS_MAX and clock() < deadline):
        pairs.append(_pair(fp32, bundle, len(pairs) % 2 == 1, clock))
    return summarize(np.array(pairs) * 1e6)


def summarize(pairs_us: npt.NDArray[np.float64]) -> Race:
    """Quantiles and the speed-up from pairs of latencies in microseconds, [N, 2]: FP32, bundle."""
    interval = bootstrap(pairs_us, _median_ratio)
    return Race(
        fp32=_summary(pairs_us[:, 0]),
        bundle=_summary(pairs_us[:, 1]),
        speedup=round(float(_median_ratio(pairs_us[np.newaxis])[0]), DIGITS),
        speedup_ci95=Interval(low=round(interval.low, DIGITS), high=round(interval.high, DIGITS)),
    )


def _warm_up(
    fp32: Callable[[], object],
    bundle: Callable[[], object],
    deadline: float,
    clock: Callable[[], float],
) -> None:
    for _ in range(WARM_UP_PAIRS):
        _pair(fp32, bundle, False, clock)
        if clock() >= deadline:
            return


def _pair(
    fp32: Callable[[], object], bundle: Callable[[], object], swapped: bool, clock: Callable[[], float]
) -> tuple[float, float]:
    if swapped:
        second = _timed(bundle, clock)
        return _timed(fp32, clock), second
    first = _timed(fp32, clock)
    return first, _timed(bundle, clock)


def _timed(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def _median_ratio(pairs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    medians = np.median(pairs, axis=-2)
    ratios: npt.NDArray[np.float64] = medians[..., 0] / medians[..., 1]
    return ratios


def _summary(latencies_us: npt.NDArray[np.float64]) -> LatencySummary:
    p50, p95, p99 = (round(float(q), DIGITS) for q in np.quantile(latencies_us, [0.5, 0.95, 0.99]))
    return LatencySummary(
        latency_p50_us=p50, latency_p95_us=p95, latency_p99_us=p99, inferences=len(latencies_us)
    )
