"""Which candidate is taken, and why: the stated policy of `--recipe auto`. Pure: points in, words out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from packhorse_agent.contract.recipe import (
    DynamicWi8Afp32,
    Fp32,
    MixedWi8Ai8,
    QatWi8Ai8,
    Recipe,
    StaticWi8Ai8,
)
from packhorse_host.quantize.search.bench import Point, Score
from packhorse_host.quantize.search.labels import label

DEFAULT_MAX_DROP_POINTS: Final = 1.0
"""The budget of a search that was given labels and no other."""
SQNR_MIN_DB: Final = 20.0
"""The budget without labels: noise of a hundredth of the outputs' power."""
GROWTH_SLACK_BYTES: Final = 16 * 1024
"""What a file may grow by: in a model of a few KiB the ranges outweigh what its weights save."""
_INTEGER: Final = (DynamicWi8Afp32, MixedWi8Ai8, QatWi8Ai8, StaticWi8Ai8)
"""Not `StaticWi8Ai16`: with 16-bit activations processors multiply floats."""


class Preference(str, Enum):
    """What is sought among those that hold the budget."""

    SPEED = "speed"
    SIZE = "size"


@dataclass(frozen=True)
class Budget:
    """What quantization may cost."""

    max_drop_points: float = DEFAULT_MAX_DROP_POINTS
    sqnr_min_db: float = SQNR_MIN_DB

    def holds(self, score: Score) -> bool:
        """Whether a score is within the budget; decided by labels where there are some."""
        if score.quality is not None:
            return score.quality.drop_points <= self.max_drop_points
        return score.sqnr_db is None or score.sqnr_db >= self.sqnr_min_db

    def text(self, score: Score) -> str:
        """The budget that decides about such a score: `1 point`, `20 dB`."""
        if score.quality is not None:
            return f"{self.max_drop_points:g} point{'s' * (self.max_drop_points != 1)}"
        return f"{self.sqnr_min_db:g} dB"


def promises_integers(recipe: Recipe) -> bool:
    """Whether a model by this recipe has to run in integers."""
    return isinstance(recipe, _INTEGER)


def outgrows(size_bytes: int, fp32_bytes: int) -> bool:
    """Whether a quantized file is larger than the float one by more than a small model's ranges take."""
    return size_bytes > fp32_bytes + GROWTH_SLACK_BYTES


def is_quantized(recipe: Recipe, integer_kernels: int, size_bytes: int, fp32_bytes: int) -> bool:
    """Whether a recipe did anything: integer kernels where it promises them, else a smaller file."""
    if isinstance(recipe, Fp32):
        return True
    return integer_kernels > 0 if promises_integers(recipe) else size_bytes < fp32_bytes


def closeness(point: Point) -> tuple[float, float]:
    """Orders scores: by the metric where there is one, then by the outputs; more is better."""
    score = point.score
    if score is None:
        return float("-inf"), float("-inf")
    return (
        -score.quality.drop_points if score.quality is not None else 0.0,
        float("inf") if score.sqnr_db is None else score.sqnr_db,
    )


def front(points: Sequence[Point]) -> tuple[Point, ...]:
    """Points that no other beats: the Pareto front over accuracy, speed and size.

    Speed is the race where both were raced, else the share of integer kernels.
    """
    working = [point for point in points if point.score is not None]
    return tuple(point for point in working if not any(_dominates(other, point) for other in working))


def pick(points: Sequence[Point], budget: Budget, preference: Preference) -> tuple[Point, str]:
    """The point that is taken and the reason in words, without measured figures.

    1. Only what holds the budget and has not grown.
    2. For `Preference.SIZE` the smallest.
    3. Where candidates were raced on the profile's own architecture: FP32 if all of them are slower;
       else the fastest, and among those that measuring cannot tell from it the best by 4.
    4. Else the largest share of integer kernels, then the fewest conversions, then the smallest file, to a
       hundredth of FP32's; then what was tried first.
    """
    fp32 = next(point for point in points if isinstance(point.recipe, Fp32))
    assert fp32.score is not None  # noqa: S101
    limit = budget.text(fp32.score)
    sound = [
        point
        for point in points
        if point is not fp32 and point.holds and not outgrows(point.size_bytes, fp32.size_bytes)
    ]
    if not sound:
        return fp32, f"fp32: nothing else that was tried holds the budget of {limit}"
    if preference is Preference.SIZE:
        return _smallest([*sound, fp32], limit)
    if any(point.race is not None for point in sound):
        return _fastest(sound, fp32, limit)
    return _most_integer(sound, fp32, limit)


def _smallest(points: Sequence[Point], limit: str) -> tuple[Point, str]:
    best = min(points, key=lambda point: (point.size_bytes, *(-value for value in closeness(point))))
    return best, f"{best.recipe.name}: the smallest that holds the budget of {limit}"


def _fastest(sound: Sequence[Point], fp32: Point, limit: str) -> tuple[Point, str]:
    raced = [point for point in sound if point.race is not None and not point.slower]
    if not raced:
        return fp32, (
            f"fp32: it wins on a machine of the profile's own architecture; "
            f"what holds the budget of {limit} is slower than fp32 there"
        )
    top = max(raced, key=_speedup)
    assert top.race is not None  # noqa: S101
    low = top.race.speedup_ci95.low
    tied = [point for point in raced if point.race is not None and point.race.speedup_ci95.high >= low]
    best = max(tied, key=lambda point: _integer_rank(point, fp32))
    return best, (
        f"{best.recipe.name}: none that holds the budget of {limit} is faster "
        f"on a machine of the profile's own architecture"
    )


def _most_integer(sound: Sequence[Point], fp32: Point, limit: str) -> tuple[Point, str]:
    integer = [point for point in sound if point.kernels.integer]
    if not integer:
        return fp32, f"fp32: what holds the budget of {limit} has no integer kernels to be faster with"
    best = max(integer, key=lambda point: _integer_rank(point, fp32))
    kernels = best.kernels
    return best, (
        f"{best.recipe.name}: of those that hold the budget of {limit} it has the most integer kernels "
        f"({kernels.integer} of {kernels.compute}), then the fewest conversions, then the smallest file; "
        "latency was not measured on the profile's architecture"
    )


def _integer_rank(point: Point, fp32: Point) -> tuple[float, int, int]:
    return (
        point.integer_share,
        -point.kernels.conversions,
        -round(100 * point.size_bytes / fp32.size_bytes),
    )


def _speedup(point: Point) -> float:
    return point.race.speedup if point.race is not None else 1.0


def _dominates(other: Point, point: Point) -> bool:
    ours, theirs = _merits(point, other)
    return all(b >= a for a, b in zip(ours, theirs, strict=True)) and ours != theirs


def _merits(point: Point, other: Point) -> tuple[tuple[float, ...], tuple[float, ...]]:
    raced = [each.race is not None or isinstance(each.recipe, Fp32) for each in (point, other)]
    some = point.race is not None or other.race is not None
    speed = _speedup if all(raced) and some else (lambda each: each.integer_share)
    first, second = ((*closeness(each), float(-each.size_bytes), speed(each)) for each in (point, other))
    return first, second


def name_of(point: Point) -> str:
    """What tables and messages call a point."""
    return label(point.recipe)
