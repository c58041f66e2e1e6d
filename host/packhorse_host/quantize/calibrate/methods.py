"""From an observed tensor to the range that is quantized. Pure; the range lies within the extremes."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from packhorse_agent.contract.recipe import CalibrationMethod
from packhorse_host.quantize.calibrate.observer import HALF, Observation, Range

_Floats = npt.NDArray[np.float64]

_ENTROPY_STRIDE: Final = 16
"""Bins between candidates: their thresholds lie within 1.6 % of each other."""
_SMOOTHING: Final = 1e-4
"""Probability that an empty bin gets, so that the divergence stays finite (as in Apache MXNet)."""
_MSE_CANDIDATES: Final = 128
"""On each side; 16,384 ranges are compared."""


def choose_range(
    observation: Observation, method: CalibrationMethod, percentile: float = 100.0, levels: int = 256
) -> Range:
    """The range by a calibration method.

    Args:
        percentile: share of the magnitudes within the range, in percent; for that method only.
        levels: how many integers stand for the range.
    """
    seen = observation.extremes
    if method is CalibrationMethod.MINMAX or seen.low == seen.high:
        return seen
    if method is CalibrationMethod.PERCENTILE:
        return _clipped(seen, _percentile(observation, percentile))
    if method is CalibrationMethod.ENTROPY:
        return _clipped(seen, _entropy(observation, levels))
    return _least_squares(observation, levels)


def quantization_error(observation: Observation, chosen: Range, levels: int = 256) -> float:
    """Expected squared error of one value, rounded to `levels` steps of a range and cut off outside it."""
    low, high = np.array([chosen.low]), np.array([chosen.high])
    return float(_errors(observation, low, high, levels)[0, 0])


def _clipped(seen: Range, threshold: float) -> Range:
    # Both ends stay in order where every value has the same sign and is beyond the threshold.
    low = min(max(seen.low, -threshold), seen.high)
    return Range(low, max(min(seen.high, threshold), low))


def _magnitudes(observation: Observation) -> npt.NDArray[np.int64]:
    """[HALF]; bin i counts magnitudes in [i, i + 1] * bin_width."""
    return observation.counts[HALF:] + observation.counts[HALF - 1 :: -1]


def _percentile(observation: Observation, percentile: float) -> float:
    if percentile >= 100:
        return float("inf")
    within = np.cumsum(_magnitudes(observation))
    first = int(np.searchsorted(within, within[-1] * (percentile / 100)))
    return (first + 1) * observation.bin_width


def _entropy(observation: Observation, levels: int) -> float:
    """The threshold that keeps most information: least Kullback-Leibler divergence.

    Source: S. Migacz, "8-bit Inference with TensorRT", GTC 2017. Zeros have a level of their own under any
    threshold, so they say nothing and are left out.
    """
    counts = _magnitudes(observation).astype(np.float64)
    counts[0] = 0
    one_sided = observation.low >= 0 or observation.high <= 0
    levels = levels if one_sided else levels // 2
    last = int(np.flatnonzero(counts).max(initial=0)) + 1
    if last <= levels:
        return float("inf")
    candidates = [*range(levels, last, _ENTROPY_STRIDE), last]
    divergences = [_divergence(counts[:last], length, levels) for length in candidates]
    best = candidates[int(np.argmin(divergences))]
    return float("inf") if best == last else best * observation.bin_width


def _divergence(counts: _Floats, length: int, levels: int) -> float:
    """Of the first `length` bins, with all beyond added to the last, from themselves in `levels` steps."""
    reference = counts[:length].copy()
    reference[-1] += counts[length:].sum()
    if not reference.any():
        return float("inf")
    inside = counts[:length]
    step = np.arange(length) * levels // length
    filled = np.bincount(step, inside > 0, minlength=levels)
    totals = np.bincount(step, inside, minlength=levels)
    level = np.divide(totals, filled, out=np.zeros(levels), where=filled > 0)
    quantized = np.where(inside > 0, level[step], 0.0)
    p, q = _smoothed(reference), _smoothed(quantized)
    return float(np.sum(p * np.log(p / q)))


def _smoothed(weights: _Floats) -> _Floats:
    total = weights.sum()
    probabilities = weights / total if total else weights
    smoothed: _Floats = (probabilities + _SMOOTHING / len(weights)) / (probabilities.sum() + _SMOOTHING)
    return smoothed


def _least_squares(observation: Observation, levels: int) -> Range:
    seen = observation.extremes
    share = np.linspace(1 / _MSE_CANDIDATES, 1, _MSE_CANDIDATES)
    lows = seen.low * share if seen.low < 0 else np.array([seen.low])
    highs = seen.high * share if seen.high > 0 else np.array([seen.high])
    lows, highs = lows[lows <= seen.high], highs[highs >= seen.low]
    best = np.argmin(_errors(observation, lows, highs, levels))
    low, high = np.unravel_index(best, (len(lows), len(highs)))
    return Range(float(lows[low]), float(highs[high]))


def _errors(observation: Observation, lows: _Floats, highs: _Floats, levels: int) -> _Floats:
    """[lows, highs]: squared errors of every pair; what is cut off on one side is the other's no matter."""
    filled = np.flatnonzero(observation.counts)
    counts = observation.counts[filled] / max(1, int(observation.counts.sum()))
    centres = (filled - HALF + 0.5) * observation.bin_width
    centres = np.clip(centres, observation.low, observation.high)
    # Zero is always among the integers: padding and Relu need it exact.
    lows, highs = np.minimum(lows, 0), np.maximum(highs, 0)
    cut_low, below = _beyond(centres, counts, lows)
    cut_high, above = _beyond(-centres[::-1], counts[::-1], -highs)
    inside = 1 - cut_low[:, None] - cut_high[None, :]
    scales = (highs[None, :] - lows[:, None]) / (levels - 1)
    errors: _Floats = inside * scales**2 / 12 + below[:, None] + above[None, :]
    return errors


def _beyond(centres: _Floats, counts: _Floats, ends: _Floats) -> tuple[_Floats, _Floats]:
    """For each end the share of ascending centres below it and their squared distances, by running sums."""
    position = np.searchsorted(centres, ends)
    moments = counts * centres ** np.arange(3)[:, None]
    share, first, second = np.pad(np.cumsum(moments, axis=1), ((0, 0), (1, 0)))[:, position]
    distances: _Floats = np.maximum(ends**2 * share - 2 * ends * first + second, 0)
    return share, distances
