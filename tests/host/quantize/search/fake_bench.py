"""A model of known sensitivities: damage adds up, in points of accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from packhorse_agent.contract.manifest import Interval, Quality
from packhorse_agent.contract.measurement import LatencySummary
from packhorse_agent.contract.recipe import (
    DynamicWi8Afp32,
    Fp16,
    Fp32,
    MixedWi8Ai8,
    Recipe,
    StaticWi8Ai8,
    WeightOnlyWi8Afp32,
)
from packhorse_host.evaluate.latency import Race
from packhorse_host.quantize.errors import ModelError
from packhorse_host.quantize.graph import KernelCounts
from packhorse_host.quantize.search.bench import Layer, Score, StaticRecipe

FP32_PERCENT = 90.0
POWER_PER_POINT = 1e-3
COMPUTE = ("Conv", "MatMul")

Repair = Callable[[StaticRecipe], float]
"""What is left of the damage with a recipe's settings: 1 is all."""


@dataclass
class FakeBench:
    """Every layer has a damage in points; a repair scales all of them."""

    model: Sequence[Layer]
    points: dict[str, float]
    """Damage by the layer's first node."""
    repair: Repair = lambda recipe: 1.0
    speedup: Callable[[Recipe], float] | None = None
    labelled: bool = True
    broken: Callable[[Recipe], bool] = lambda recipe: False
    dynamic_points: float = 0.0
    asked: list[Recipe] = field(default_factory=list)
    measured: list[frozenset[str]] = field(default_factory=list)

    def layers(self) -> Sequence[Layer]:
        return self.model

    def score(self, recipe: Recipe) -> Score:
        self.asked.append(recipe)
        if self.broken(recipe):
            raise ModelError("does not quantize")
        drop = self._drop(recipe)
        sqnr_db = None if isinstance(recipe, Fp32) else -10 * math.log10(max(drop, 1e-9) * POWER_PER_POINT)
        return Score(_quality(drop) if self.labelled else None, sqnr_db)

    def damage(self, recipe: StaticRecipe, quantized: Collection[str]) -> float:
        self.measured.append(frozenset(quantized))
        hurt = sum(self.points[layer.nodes[0]] for layer in self.model if layer.nodes[0] in quantized)
        return POWER_PER_POINT * self.repair(recipe) * hurt

    def size_bytes(self, recipe: Recipe) -> int:
        if isinstance(recipe, (Fp16, WeightOnlyWi8Afp32)):
            return 500_000 if isinstance(recipe, Fp16) else 260_000
        return 1_000_000 - 30_000 * len(self.quantized(recipe))

    def kernels(self, recipe: Recipe) -> KernelCounts:
        compute = [layer for layer in self.model if layer.operator in COMPUTE]
        integer = [layer for layer in compute if layer in self.quantized(recipe)]
        return KernelCounts(len(integer), len(compute), len(self.model) - len(self.quantized(recipe)))

    def race(self, recipe: Recipe) -> Race | None:
        return None if self.speedup is None else a_race(self.speedup(recipe))

    def quantized(self, recipe: Recipe) -> list[Layer]:
        """The layers that a recipe quantizes."""
        if isinstance(recipe, DynamicWi8Afp32):
            return [layer for layer in self.model if layer.operator in recipe.operators]
        if not isinstance(recipe, (MixedWi8Ai8, StaticWi8Ai8)):
            return []
        kept = recipe.float_nodes if isinstance(recipe, MixedWi8Ai8) else ()
        return [
            layer
            for layer in self.model
            if not set(layer.nodes) & set(kept)
            and (recipe.operators is None or layer.operator in recipe.operators)
        ]

    def _drop(self, recipe: Recipe) -> float:
        if isinstance(recipe, DynamicWi8Afp32):
            return self.dynamic_points
        if not isinstance(recipe, (MixedWi8Ai8, StaticWi8Ai8)):
            return 0.0
        return self.repair(recipe) * sum(self.points[each.nodes[0]] for each in self.quantized(recipe))


def layer(name: str, operator: str = "Conv", cost: float = 1.0) -> Layer:
    return Layer((name,), (operator,), cost)


def a_race(speedup: float, spread: float = 0.05) -> Race:
    latency = LatencySummary(latency_p50_us=100, latency_p95_us=110, latency_p99_us=120, inferences=100)
    return Race(latency, latency, speedup, Interval(low=speedup - spread, high=speedup + spread))


def _quality(drop: float) -> Quality:
    return Quality(
        metric="top1_percent",
        dataset_sha256="0" * 64,
        samples=1000,
        fp32=FP32_PERCENT,
        quantized=FP32_PERCENT - drop,
        drop_points=drop,
        drop_ci95_points=Interval(low=drop - 0.5, high=drop + 0.5),
        agreement_percent=99.0,
    )
