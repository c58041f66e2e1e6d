"""What is remembered of a tensor's values: the extremes, and a histogram of bounded size. Pure.

The histogram covers [-2^e, 2^e) in `BINS` bins of equal width. Because widths are powers of two, a wider
histogram is the narrower one with neighbours added up, to the last count: one pass suffices, whatever the
order of the samples, and observations of parts merge to that of the whole. (Negative numbers below 2^-130 of
the largest magnitude may be counted on either side of zero.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

BINS: Final = 4096
"""At least a quarter of them lie between zero and the largest magnitude."""
HALF: Final = BINS // 2
_EXPONENT_MIN: Final = -100
"""Magnitudes below 2^-100 count as zero: no scale of a quantized tensor is that small."""
_CHUNK: Final = 1 << 16
"""Values that are counted at once; they and their indexes stay in the processor's cache."""


class NotFiniteError(ValueError):
    """A tensor holds NaN or infinity."""


@dataclass(frozen=True)
class Range:
    """Closed interval of real values that the integers of a quantized tensor stand for."""

    low: float
    high: float

    def union(self, other: Range) -> Range:
        """The smallest range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True, eq=False)
class Observation:
    """Some values of one tensor."""

    low: float
    """Infinity when nothing was seen."""
    high: float
    exponent: int
    """e: every magnitude is below 2^e."""
    counts: npt.NDArray[np.int64]
    """[BINS]; bin i holds values in [i - HALF, i - HALF + 1) * bin_width."""

    @property
    def empty(self) -> bool:
        """Whether nothing was seen."""
        return self.low > self.high

    @property
    def bin_width(self) -> float:
        """Width of one bin."""
        return math.ldexp(1.0, self.exponent) / HALF

    @property
    def extremes(self) -> Range:
        """Smallest and largest value; [0, 0] when nothing was seen."""
        return Range(0.0, 0.0) if self.empty else Range(self.low, self.high)


NOTHING: Final = Observation(math.inf, -math.inf, _EXPONENT_MIN, np.zeros(BINS, np.int64))
"""Neutral in `merge`."""


def observe(values: npt.NDArray[Any]) -> Observation:
    """Observe a floating-point tensor of any shape.

    Raises:
        NotFiniteError: it holds NaN or infinity.
    """
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    if not flat.size:
        return NOTHING
    seen = extremes(flat)
    largest = max(abs(seen.low), abs(seen.high))
    exponent = max(math.frexp(largest)[1], _EXPONENT_MIN) if largest else _EXPONENT_MIN
    return Observation(seen.low, seen.high, exponent, _counted(flat, exponent))


def extremes(values: npt.NDArray[Any]) -> Range:
    """Smallest and largest of at least one value.

    Raises:
        NotFiniteError: one of them is NaN or infinity.
    """
    seen = Range(float(values.min()), float(values.max()))
    if not math.isfinite(seen.low) or not math.isfinite(seen.high):
        raise NotFiniteError
    return seen


def merge(first: Observation, second: Observation) -> Observation:
    """What one observation of both tensors' values would be."""
    exponent = max(first.exponent, second.exponent)
    counts = _widened(first, exponent) + _widened(second, exponent)
    return Observation(min(first.low, second.low), max(first.high, second.high), exponent, counts)


def mirrored(observation: Observation) -> Observation:
    """The same values and each with the other sign: what a range around zero is chosen for."""
    if observation.empty:
        return observation
    largest = max(abs(observation.low), abs(observation.high))
    counts = observation.counts + observation.counts[::-1]
    return Observation(-largest, largest, observation.exponent, counts)


def _counted(flat: npt.NDArray[np.float32], exponent: int) -> npt.NDArray[np.int64]:
    bins_per_unit = np.float32(math.ldexp(HALF, -exponent))
    counts = np.zeros(BINS, np.int64)
    length = min(_CHUNK, flat.size)
    scaled, indexes = np.empty(length, np.float32), np.empty(length, np.int32)
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        part, index = scaled[: chunk.size], indexes[: chunk.size]
        np.multiply(chunk, bins_per_unit, out=part)  # exact: a power of two
        np.floor(part, out=part)
        np.copyto(index, part, casting="unsafe")
        index += HALF
        counts += np.bincount(index, minlength=BINS)
    return counts


def _widened(observation: Observation, exponent: int) -> npt.NDArray[np.int64]:
    steps = exponent - observation.exponent
    if steps == 0 or observation.empty:
        return observation.counts
    counts = np.zeros(BINS, np.int64)
    np.add.at(counts, (np.arange(-HALF, HALF) >> min(steps, 62)) + HALF, observation.counts)
    return counts
