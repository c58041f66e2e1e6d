"""`--recipe auto` for the profiles of one request, on the workbench."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from packhorse_agent.contract.recipe import Recipe
from packhorse_agent.machine import machine_facts
from packhorse_host.bundle.machine import usable_cores
from packhorse_host.bundle.request import PackRequest, Target
from packhorse_host.bundle.workbench import Announce, Workbench
from packhorse_host.evaluate.latency import Race
from packhorse_host.evaluate.stand_in import STAND_INS
from packhorse_host.quantize.graph import Architecture, KernelCounts
from packhorse_host.quantize.search.bench import Layer, Score, StaticRecipe
from packhorse_host.quantize.search.policy import DEFAULT_MAX_DROP_POINTS, Budget
from packhorse_host.quantize.search.search import Goal, SearchResult, search


@dataclass(frozen=True)
class ProfileBench:
    """The workbench as one kind of device sees it: the port that the search tries recipes on."""

    workbench: Workbench
    architecture: Architecture
    race_threads: int | None
    """None: this machine has not the devices' architecture or runtime, and a race here would tell nothing."""

    def layers(self) -> Sequence[Layer]:
        """What can be quantized, in the order of the graph."""
        return self.workbench.layers

    def score(self, recipe: Recipe) -> Score:
        """On all evaluation samples; the SQNR on the candidates for golden vectors."""
        variant = self.workbench.variant(recipe)
        return Score(variant.quality, None if recipe.name == "fp32" else variant.noise_db)

    def damage(self, recipe: StaticRecipe, quantized: Collection[str]) -> float:
        """Noise power over signal power of the outputs when only the nodes `quantized` are quantized."""
        return self.workbench.damage(recipe, quantized)

    def size_bytes(self, recipe: Recipe) -> int:
        """Of the model file."""
        return len(self.workbench.variant(recipe).model)

    def kernels(self, recipe: Recipe) -> KernelCounts:
        """What the profile's processor runs."""
        return self.workbench.kernels(recipe, self.architecture)

    def race(self, recipe: Recipe) -> Race | None:
        """Against FP32, where this machine has the profile's architecture."""
        return None if self.race_threads is None else self.workbench.race(recipe, self.race_threads)


class Auto:
    """Searches once for all profiles that want the same."""

    def __init__(self, workbench: Workbench, request: PackRequest, announce: Announce) -> None:
        points = request.budget_points
        budget = Budget(DEFAULT_MAX_DROP_POINTS if points is None else points)
        self._goal = Goal(budget, request.preference, request.thorough, request.search_seconds)
        self._workbench = workbench
        self._announce = announce
        self._found: list[tuple[ProfileBench, Recipe, SearchResult]] = []

    def find(self, target: Target) -> SearchResult:
        """The recipe for a target, and how it was found.

        Raises:
            BadInputError: the float model or the data do not work.
        """
        bench = self._bench(target)
        for known, first, result in self._found:
            if (known, first) == (bench, target.recipe):
                return result
        self._announce(f"searching a recipe for {target.profile.name}, for {self._goal.seconds:g} s at most")
        result = search(bench, target.recipe, target.static, self._goal, self._announce)
        self._found.append((bench, target.recipe, result))
        return result

    def _bench(self, target: Target) -> ProfileBench:
        own = (
            machine_facts().architecture in target.profile.compatible.architectures
            and target.requirement.name not in STAND_INS
        )
        threads = min(target.requirement.threads, usable_cores()) if own else None
        return ProfileBench(self._workbench, target.architecture, threads)
