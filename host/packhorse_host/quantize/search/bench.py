"""The port that a search tries recipes on, and what comes back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from packhorse_agent.contract.manifest import Quality
from packhorse_agent.contract.recipe import MixedWi8Ai8, Recipe, StaticWi8Ai8
from packhorse_host.evaluate.latency import Race
from packhorse_host.quantize.graph import KernelCounts

StaticRecipe = StaticWi8Ai8 | MixedWi8Ai8
"""Recipes with 8-bit ranges from calibration."""

TIE: Final = 0.03
"""Latencies that differ by less count as alike."""


@dataclass(frozen=True)
class Layer:
    """Nodes of the prepared graph that are quantized or left in float together."""

    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    """Of the nodes; all but the first are activations that runtimes fuse into it."""
    cost: float
    """Multiply-accumulates, or elements where nothing is multiplied, of one sample: what float costs here."""

    @property
    def operator(self) -> str:
        """What kind of layer it is."""
        return self.operators[0]


@dataclass(frozen=True)
class Score:
    """How close a variant comes to FP32."""

    quality: Quality | None
    """None: there is no evaluation set."""
    sqnr_db: float | None
    """Of the outputs, the worst of them; None for the float model itself."""


class Bench(Protocol):
    """One model, tried by recipes for one profile; every answer is kept, so that asking again is free.

    All but `layers` raise where a recipe does not work: `ModelError`, `ModelLoadError`, `OutputsError`,
    `ActivationError`, `UnsupportedRecipeError` (this runtime has none such) or `UselessQuantizationError`.
    """

    def layers(self) -> Sequence[Layer]:
        """What can be quantized, in the order of the graph."""

    def score(self, recipe: Recipe) -> Score:
        """Evaluated on all evaluation samples, or by its outputs where nothing is labelled."""

    def damage(self, recipe: StaticRecipe, quantized: Collection[str]) -> float:
        """Noise power over signal power of the outputs when only the nodes `quantized` are quantized."""

    def size_bytes(self, recipe: Recipe) -> int:
        """Of the model file."""

    def kernels(self, recipe: Recipe) -> KernelCounts:
        """What the profile's processor runs."""

    def race(self, recipe: Recipe) -> Race | None:
        """Against FP32; None where this machine has not the profile's architecture."""


@dataclass(frozen=True)
class Point:
    """A candidate, tried."""

    recipe: Recipe
    score: Score | None
    """None: it does not work for this model, `fault` says why."""
    size_bytes: int
    kernels: KernelCounts
    race: Race | None
    holds: bool
    """Whether the budget holds, and it is quantized at all."""
    fault: str = ""

    @property
    def integer_share(self) -> float:
        """Of the kernels that compute, those that run in integers: 0 to 1."""
        return self.kernels.integer / self.kernels.compute if self.kernels.compute else 0.0

    @property
    def slower(self) -> bool:
        """Whether it lost the race against FP32: beyond doubt, or by more than `TIE`."""
        race = self.race
        return race is not None and (race.speedup_ci95.high < 1 or race.speedup < 1 - TIE)
