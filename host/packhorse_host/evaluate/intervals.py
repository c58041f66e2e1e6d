"""Confidence intervals, two-sided at 95 %."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from packhorse_agent.contract.manifest import Interval

Floats = npt.NDArray[np.float64]

Z_95: Final = 1.959963984540054
"""The 0.975 quantile of the standard normal distribution."""
BOOTSTRAP_RESAMPLES: Final = 1000
RESAMPLED_MAX: Final = 2_000_000
"""Samples that are drawn at once: bounds the memory that many samples take."""


def paired_difference(only_first: int, only_second: int, samples: int) -> Interval:
    """Interval for the difference of two proportions of the same samples, first less second, in points.

    The adjusted Wald interval of Bonett and Price, "Adjusted Wald Confidence Interval for a Difference of
    Binomial Proportions Based on Paired Data", J. Educ. Behav. Stat. 37 (2012), 479-488, recommended by
    Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014), 2850-2875: half a sample is added to
    each of the four cells, which keeps its coverage near 95 % for few and for lopsided disagreements.
    Samples on which both are right, or both wrong, carry no information but their number.

    Args:
        only_first: samples on which only the first is right.
        only_second: samples on which only the second is right.
        samples: all samples, at least 1.
    """
    first = (only_first + 1) / (samples + 2)
    second = (only_second + 1) / (samples + 2)
    centre = first - second
    half = Z_95 * math.sqrt((first + second - centre**2) / (samples + 2))
    return Interval(low=100 * max(-1.0, centre - half), high=100 * min(1.0, centre + half))


def share(hits: int, samples: int) -> Interval:
    """Interval for a proportion in percent: Wilson, "Probable Inference, the Law of Succession, and
    Statistical Inference", J. Am. Stat. Assoc. 22 (1927), 209-212.

    Args:
        hits: at most `samples`.
        samples: at least 1.
    """
    weight = Z_95**2 / samples
    centre = (hits / samples + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (hits / samples * (1 - hits / samples) + weight / 4)) / (1 + weight)
    return Interval(low=100 * max(0.0, centre - half), high=100 * min(1.0, centre + half))


def bootstrap_rounds(rounds: Floats, statistic: Callable[[Floats], Floats], seed: int = 0) -> Interval:
    """Percentile bootstrap over rounds of paired observations.

    Rounds are drawn whole (the cluster bootstrap: Davison and Hinkley, "Bootstrap Methods and their
    Application", 1997, section 3.8), since what is observed within one resembles each other more than what
    is observed in two.

    Args:
        rounds: [R, N, k], R rounds of N observations.
        statistic: maps [resamples, R * N, k] to [resamples].
        seed: of the resampling, so that the same measurements give the same interval.
    """
    count, length, width = rounds.shape
    draws = np.random.default_rng(seed).integers(count, size=(BOOTSTRAP_RESAMPLES, count))
    resamples = rounds[draws].reshape(BOOTSTRAP_RESAMPLES, count * length, width)
    low, high = np.quantile(statistic(resamples), [0.025, 0.975])
    return Interval(low=float(low), high=float(high))


def bootstrap_samples(samples: int, statistic: Callable[[Floats], Floats], seed: int = 0) -> Interval:
    """Percentile bootstrap over samples: of a score, or of the drop that two models have on the same samples.

    Each resample is told by how often it holds each sample; where it has no score (of two kinds of sample it
    drew one) it does not count. What was observed is always inside: a score that is no mean (average
    precision, a worst output) may be biased so much that plain quantiles would leave it out.

    Args:
        samples: how many there are.
        statistic: maps counts [R, samples] to figures [R], NaN for none.
        seed: of the resampling, so that the same outputs give the same interval.
    """
    observed = float(statistic(np.ones((1, samples)))[0])
    stream = np.random.default_rng(seed)
    chunk = max(1, RESAMPLED_MAX // samples)
    parts: list[Floats] = []
    for start in range(0, BOOTSTRAP_RESAMPLES, chunk):
        rounds = min(chunk, BOOTSTRAP_RESAMPLES - start)
        drawn = (stream.integers(samples, size=samples) for _ in range(rounds))
        counts = np.stack([np.bincount(each, minlength=samples) for each in drawn]).astype(np.float64)
        parts.append(statistic(counts))
    found = np.concatenate(parts)
    found = found[~np.isnan(found)]
    low, high = np.quantile(found, [0.025, 0.975]) if found.size else (observed, observed)
    return Interval(low=min(float(low), observed), high=max(float(high), observed))
