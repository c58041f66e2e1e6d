"""Two models timed against each other in interleaved pairs.

On a shared machine a latency drifts more from second to second than two models differ. Each pair is timed
back to back, in an order that alternates, so that what slows the machine slows both. Where a session's
threads land stays with it for its whole life and can double its latency, so both models are opened anew for
every round, and the interval is drawn over rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from packhorse_agent.contract.manifest import Interval
from packhorse_agent.contract.measurement import LatencySummary
from packhorse_host.evaluate.intervals import Floats, bootstrap_rounds

ROUNDS_MIN: Final = 3
ROUNDS_MAX: Final = 12
WARM_UP_PAIRS: Final = 3
PAIRS_MIN: Final = 10
PAIRS_MAX: Final = 30
DIGITS: Final = 3

Run = Callable[[], object]
"""One inference."""
Clock = Callable[[], float]
"""Seconds, monotonic."""


@dataclass(frozen=True)
class Race:
    """Latencies of two models over the same pairs of inferences."""

    fp32: LatencySummary
    bundle: LatencySummary
    speedup: float
    """Median FP32 latency divided by median bundle latency."""
    speedup_ci95: Interval


def race(
    open_both: Callable[[], tuple[Run, Run]], *, budget_s: float, clock: Clock = time.perf_counter
) -> Race:
    """Time FP32 and a bundle's model for about `budget_s` seconds, `ROUNDS_MIN` rounds at least.

    Args:
        open_both: loads FP32 and the other model, each into a session of its own.
        budget_s: after which no further round begins, and a `ROUNDS_MAX`th of which ends a round.
        clock: replaced in tests.
    """
    deadline = clock() + budget_s
    rounds: list[Floats] = []
    while len(rounds) < ROUNDS_MIN or (len(rounds) < ROUNDS_MAX and clock() < deadline):
        fp32, bundle = open_both()
        rounds.append(_round(fp32, bundle, budget_s / ROUNDS_MAX, clock))
    return summarize([each * 1e6 for each in rounds])


def summarize(rounds_us: Sequence[Floats]) -> Race:
    """Quantiles and the speed-up from rounds of pairs in microseconds, each [N, 2]: FP32, bundle."""
    pairs_us = np.concatenate(rounds_us)
    length = min(len(each) for each in rounds_us)
    interval = bootstrap_rounds(np.stack([each[:length] for each in rounds_us]), _median_ratio)
    return Race(
        fp32=_summary(pairs_us[:, 0]),
        bundle=_summary(pairs_us[:, 1]),
        speedup=round(float(_median_ratio(pairs_us[np.newaxis])[0]), DIGITS),
        speedup_ci95=Interval(low=round(interval.low, DIGITS), high=round(interval.high, DIGITS)),
    )


def _round(fp32: Run, bundle: Run, budget_s: float, clock: Clock) -> Floats:
    for _ in range(WARM_UP_PAIRS):
        fp32()
        bundle()
    deadline = clock() + budget_s
    pairs: list[tuple[float, float]] = []
    while len(pairs) < PAIRS_MIN or (len(pairs) < PAIRS_MAX and clock() < deadline):
        if len(pairs) % 2:
            second = _timed(bundle, clock)
            pairs.append((_timed(fp32, clock), second))
        else:
            first = _timed(fp32, clock)
            pairs.append((first, _timed(bundle, clock)))
    return np.array(pairs)


def _timed(run: Run, clock: Clock) -> float:
    start = clock()
    run()
    return clock() - start


def _median_ratio(pairs: Floats) -> Floats:
    medians: Floats = np.median(pairs, axis=-2)
    ratios: Floats = medians[..., 0] / medians[..., 1]
    return ratios


def _summary(latencies_us: npt.NDArray[np.float64]) -> LatencySummary:
    p50, p95, p99 = (round(float(q), DIGITS) for q in np.quantile(latencies_us, [0.5, 0.95, 0.99]))
    return LatencySummary(
        latency_p50_us=p50, latency_p95_us=p95, latency_p99_us=p99, inferences=len(latencies_us)
    )
