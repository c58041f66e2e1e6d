"""`--recipe auto`: try candidates, the likely ones first, until one settles it or the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.recipe import (
    CalibrationMethod,
    DynamicWi8Afp32,
    Fp16,
    Fp32,
    MixedWi8Ai8,
    Recipe,
    StaticWi8Ai8,
    WeightOnlyWi8Afp32,
)
from packhorse_agent.runtime.errors import ModelLoadError
from packhorse_host.evaluate.errors import OutputsError
from packhorse_host.quantize.errors import (
    ActivationError,
    ModelError,
    UnsupportedRecipeError,
    UselessQuantizationError,
)
from packhorse_host.quantize.graph import KernelCounts
from packhorse_host.quantize.search.bench import Bench, Layer, Point, StaticRecipe
from packhorse_host.quantize.search.labels import label
from packhorse_host.quantize.search.plan import (
    NEGLIGIBLE,
    Sensitivity,
    by_operator,
    greedy,
    measure,
    shortest_prefix,
)
from packhorse_host.quantize.search.policy import (
    Budget,
    Preference,
    closeness,
    front,
    is_quantized,
    pick,
)

FAR_BETTER_DB: Final = 3.0
"""Half of the noise: worth giving operators up for."""
COMPUTE_OPERATORS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose"})
PRODUCTS: Final = frozenset({"Gemm", "MatMul"})
"""What dynamic quantization speeds up."""
MOST: Final = 0.5
"""From this share on something is what a model mostly consists of, or mostly suffers from."""
_FAULTS: Final = (
    ActivationError,
    ModelError,
    ModelLoadError,
    OutputsError,
    UnsupportedRecipeError,
    UselessQuantizationError,
)
"""What a recipe that does not work for a model raises."""
PLANNING_SHARE: Final = 0.25
SEARCH_SECONDS: Final = 60.0
HOPELESS_DAMAGE: Final = 1e9
"""Stands for layers that cannot be quantized at all."""

Announce = Callable[[str], None]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Goal:
    """What is looked for, and for how long."""

    budget: Budget = field(default_factory=Budget)
    preference: Preference = Preference.SPEED
    thorough: bool = False
    """Try all there is, also after a candidate has settled it."""
    seconds: float = SEARCH_SECONDS
    """After which no further candidate begins; FP32 and the first one are always tried."""


@dataclass(frozen=True)
class SearchResult:
    """What was found, and how."""

    recipe: Recipe
    why: str
    """The policy's reason, without measured figures."""
    tried: tuple[Point, ...]
    """In order; the first is FP32."""
    sensitivities: tuple[Sensitivity, ...]
    """By which a mixed plan was made, the first to stay in float first; empty where none was needed."""
    out_of_time: bool

    @property
    def front(self) -> tuple[Point, ...]:
        """Those that no other beats."""
        return front(self.tried)


def search(
    bench: Bench,
    first: Recipe,
    static: StaticWi8Ai8 | None,
    goal: Goal,
    announce: Announce,
    clock: Clock = time.monotonic,
) -> SearchResult:
    """Find a recipe that holds the budget; see `policy.pick` for which is taken of several.

    Args:
        bench: tries recipes on the model.
        first: what the profile prefers; taken at once when it settles the matter.
        static: what candidates with calibration start from; None where there is nothing to calibrate with.
        goal: budget, preference and time.
        announce: hears of every candidate and why it is tried.
        clock: seconds, monotonic.
    """
    hunt = _Hunt(bench, goal, announce, clock)
    out_of_time = False
    try:
        hunt.run(first, static)
    except _TimeUpError:
        out_of_time = True
    if isinstance(first, Fp32) and len(hunt.points) == 1:
        best, why = hunt.points[0], "fp32: the profile prefers it"
    else:
        best, why = pick(hunt.points, goal.budget, goal.preference)
    return SearchResult(best.recipe, why, tuple(hunt.points), tuple(hunt.sensitivities), out_of_time)


class _TimeUpError(Exception):
    """No further candidate may begin."""


class _Hunt:
    def __init__(self, bench: Bench, goal: Goal, announce: Announce, clock: Clock) -> None:
        self._bench = bench
        self._goal = goal
        self._announce = announce
        self._clock = clock
        self._deadline = clock() + goal.seconds
        self.points: list[Point] = []
        self.sensitivities: list[Sensitivity] = []

    def run(self, first: Recipe, static: StaticWi8Ai8 | None) -> None:
        self._measured(Fp32())
        if not isinstance(first, Fp32):
            self._try(first, "what the profile prefers", always=True)
        if not self._goal.thorough and (isinstance(first, Fp32) or self._settled):
            return
        layers = self._bench.layers()
        if _share(layers, PRODUCTS) >= MOST:
            self._try(DynamicWi8Afp32(), "most of the model is matrix products")
        if static is not None and not self._done:
            self._static(static, layers)
        if self._goal.thorough or self._goal.preference is Preference.SIZE or not self._accurate:
            self._try(WeightOnlyWi8Afp32(), "a quarter of the size, in floating point")
            self._try(Fp16(), "half of the size")

    def _static(self, static: StaticWi8Ai8, layers: Sequence[Layer]) -> None:
        self._try(static, "ranges from calibration")
        products = _only(static, layers, COMPUTE_OPERATORS)
        if products is not None and not (self._done and self._accurate):
            self._try(products, "only what multiplies: the fewest operators that pay")
        convolutions = _only(static, layers, CONVOLUTIONS)
        if convolutions is not None and not self._enough and _share(layers, CONVOLUTIONS) >= MOST:
            self._try(convolutions, "most of the model is convolutions")
        if self._enough:
            return
        base = self._base(static, products)
        if base is None:
            return
        for repair in self._repairs(base, layers):
            if not self._enough:
                repair()

    def _repairs(self, base: StaticWi8Ai8, layers: Sequence[Layer]) -> Iterator[Callable[[], None]]:
        """The likely ones first; correcting biases takes longest, and mends convolutions above all."""
        blame = self._blame(base, layers)
        elsewhere = sum(each.damage for each in blame if each.layers[0].operator != "Conv")
        operators = partial(self._repair_operators, base, blame)
        ranges = partial(self._repair, self._range_repairs(base))
        biases = partial(self._repair, self._bias_repairs(base))
        mix = partial(self._mix, layers)
        if elsewhere < MOST * sum(each.damage for each in blame):
            yield ranges
            late = self._clock() > self._deadline - self._goal.seconds * MOST
            yield from [operators, mix, biases] if late else [biases, operators, mix]
        else:
            yield from [operators, ranges, mix, biases]

    def _base(self, static: StaticWi8Ai8, products: StaticWi8Ai8 | None) -> StaticWi8Ai8 | None:
        """What repairs start from: all operators, unless those that multiply do far better alone."""
        known = {canonical_json(point.recipe): point.score for point in self.points}
        first = known.get(canonical_json(static))
        second = known.get(canonical_json(products)) if products is not None else None
        if first is None or second is None:
            return static if first is not None else products if second is not None else None
        ahead_db = (second.sqnr_db or 0.0) - (first.sqnr_db or 0.0)
        drops = [each.quality.drop_points for each in (first, second) if each.quality is not None]
        halved = len(drops) > 1 and drops[1] < MOST * drops[0]
        return products if ahead_db > FAR_BETTER_DB or halved else static

    def _repair(self, candidates: Iterator[tuple[Recipe, str]]) -> None:
        for recipe, reason in candidates:
            if self._try(recipe, reason).holds and not self._goal.thorough:
                return

    def _range_repairs(self, static: StaticWi8Ai8) -> Iterator[tuple[Recipe, str]]:
        """Each on top of the best so far."""
        yield self._best_with(static, equalize=True), "perhaps channels differ too much in scale"
        for method in (CalibrationMethod.MSE, CalibrationMethod.PERCENTILE, CalibrationMethod.ENTROPY):
            yield self._best_with(static, calibration=method), "perhaps outliers stretch the ranges"
        if static.reduce_range:
            yield self._best_with(static, reduce_range=False), "perhaps 7 bits are too few for the weights"

    def _bias_repairs(self, static: StaticWi8Ai8) -> Iterator[tuple[Recipe, str]]:
        yield self._best_with(static, correct_bias=True), "perhaps rounding shifts the channels' means"

    def _best_with(self, static: StaticWi8Ai8, **changes: object) -> StaticWi8Ai8:
        best = self._best_static(lambda recipe: recipe.operators == static.operators)
        return (best or static).model_copy(update=changes)

    def _blame(self, static: StaticWi8Ai8, layers: Sequence[Layer]) -> list[Sensitivity]:
        """Sensitivity of each operator type."""
        types = by_operator(_within(static, layers))
        self._announce(f"measuring how much each of {len(types)} operator types hurts")
        return measure(types, lambda group: self._damage(static, group), lambda: True)

    def _repair_operators(self, static: StaticWi8Ai8, blame: Sequence[Sensitivity]) -> None:
        """Leave whole operator types in float, as few as it takes, but none that is most of the model."""
        total = sum(each.damage for each in blame)
        most = MOST * sum(each.cost for each in blame)
        order = [each for each in greedy(blame) if each.damage > NEGLIGIBLE * total and each.cost < most][
            : len(blame) - 1
        ]

        def holds(length: int) -> bool:
            dropped = {each.layers[0].operator for each in order[:length]}
            kept = [layer for each in blame for layer in each.layers if layer.operator not in dropped]
            recipe = static.model_copy(update={"operators": _operators(kept)})
            return self._try(recipe, f"{', '.join(sorted(dropped))} hurt most").holds

        if order:
            shortest_prefix(len(order), holds)

    def _mix(self, layers: Sequence[Layer]) -> None:
        """Leave single layers in float, as few as it takes."""
        base = self._best_static()
        if base is None:
            return
        inside = _within(base, layers)
        self._announce(f"measuring how much each of {len(inside)} layers hurts with {label(base)}")
        groups = by_operator(inside)
        self.sensitivities = greedy(measure(groups, lambda group: self._damage(base, group), self._is_late))
        length = len(self.sensitivities) - 1
        if length > 0:
            shortest_prefix(length, lambda steps: self._try(self._mixed(base, steps), "by sensitivity").holds)

    def _mixed(self, base: StaticWi8Ai8, steps: int) -> MixedWi8Ai8:
        nodes = sorted(node for each in self.sensitivities[:steps] for node in each.nodes)
        return MixedWi8Ai8(**(base.model_dump(exclude={"name"}) | {"float_nodes": tuple(nodes)}))

    def _damage(self, base: StaticRecipe, group: Sequence[Layer]) -> float:
        try:
            found = self._bench.damage(base, frozenset(node for layer in group for node in layer.nodes))
        except _FAULTS:
            return HOPELESS_DAMAGE
        return min(found, HOPELESS_DAMAGE)

    def _is_late(self) -> bool:
        # What is known by then has to do: a quarter of the time is for trying plans.
        return self._clock() > self._deadline - self._goal.seconds * PLANNING_SHARE

    def _try(self, recipe: Recipe, reason: str, *, always: bool = False) -> Point:
        known = next((point for point in self.points if point.recipe == recipe), None)
        if known is not None:
            return known
        if not always and self._clock() >= self._deadline:
            raise _TimeUpError
        self._announce(f"candidate {len(self.points)}: {label(recipe)} ({reason})")
        return self._measured(recipe)

    def _measured(self, recipe: Recipe) -> Point:
        try:
            point = self._point(recipe)
        except _FAULTS as error:
            if isinstance(recipe, Fp32):
                raise
            point = Point(recipe, None, 0, KernelCounts(0, 0), None, holds=False, fault=str(error))
        self.points.append(point)
        return point

    def _point(self, recipe: Recipe) -> Point:
        bench = self._bench
        score, size_bytes, kernels = bench.score(recipe), bench.size_bytes(recipe), bench.kernels(recipe)
        fp32_bytes = bench.size_bytes(Fp32())
        quantized = is_quantized(recipe, kernels.integer, size_bytes, fp32_bytes)
        holds = quantized and self._goal.budget.holds(score)
        point = Point(recipe, score, size_bytes, kernels, None, holds)
        raced = holds and not isinstance(recipe, Fp32)
        return replace(point, race=bench.race(recipe)) if raced else point

    def _best_static(
        self, wanted: Callable[[StaticWi8Ai8], bool] = lambda recipe: True
    ) -> StaticWi8Ai8 | None:
        """The one closest to FP32."""
        working = [
            (closeness(point), point.recipe)
            for point in self.points
            if isinstance(point.recipe, StaticWi8Ai8) and point.score is not None and wanted(point.recipe)
        ]
        return max(working, key=lambda each: each[0])[1] if working else None

    @property
    def _accurate(self) -> bool:
        """Whether something with static ranges holds the budget."""
        return any(point.holds and isinstance(point.recipe, StaticWi8Ai8) for point in self.points)

    @property
    def _enough(self) -> bool:
        """Whether nothing has to be repaired."""
        return self._accurate and not self._goal.thorough

    @property
    def _settled(self) -> bool:
        """Whether a candidate holds the budget, runs in integers throughout, and is not slower than FP32."""
        return any(point.holds and point.integer_share == 1 and not point.slower for point in self.points)

    @property
    def _done(self) -> bool:
        return self._settled and not self._goal.thorough


def _within(recipe: StaticRecipe, layers: Sequence[Layer]) -> list[Layer]:
    return [layer for layer in layers if recipe.operators is None or layer.operator in recipe.operators]


def _only(static: StaticWi8Ai8, layers: Sequence[Layer], wanted: frozenset[str]) -> StaticWi8Ai8 | None:
    """With layers of the wanted operators alone; None where there are none, or no others."""
    inside = _within(static, layers)
    kept = [layer for layer in inside if layer.operator in wanted]
    if not kept or _operators(kept) == _operators(inside):
        return None
    return static.model_copy(update={"operators": _operators(kept)})


def _operators(layers: Sequence[Layer]) -> tuple[str, ...]:
    return tuple(sorted({operator for layer in layers for operator in layer.operators}))


def _share(layers: Sequence[Layer], operators: frozenset[str]) -> float:
    total = sum(layer.cost for layer in layers)
    return sum(layer.cost for layer in layers if layer.operator in operators) / total if total else 0.0
