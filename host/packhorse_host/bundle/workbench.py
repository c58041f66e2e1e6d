"""The expensive steps of packing, each done once however many profiles want its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.manifest import DataFreeCheck, ProbeLimits, Quality, RuntimeRequirement
from packhorse_agent.contract.recipe import MixedWi8Ai8, Recipe
from packhorse_agent.runtime.base import Session
from packhorse_agent.runtime.datatypes import Array
from packhorse_agent.runtime.golden import GoldenVectors, replay, worst_sqnr_db
from packhorse_host.bundle.emitters import Emitter, PartEmitter
from packhorse_host.bundle.machine import usable_cores
from packhorse_host.bundle.request import Material, tensor_names
from packhorse_host.errors import ConfigError
from packhorse_host.evaluate.compare import compare
from packhorse_host.evaluate.latency import Race, Run, race
from packhorse_host.evaluate.runner import open_session, run_all
from packhorse_host.evaluate.samples import ArraySamples, Samples
from packhorse_host.evaluate.vectors import (
    FP32_SQNR_MIN_DB,
    SQNR_ALLOWANCE_DB,
    candidates,
    choose,
    margin_for,
    probe_limits,
    synthesized,
    vector_count,
)
from packhorse_host.quantize.errors import ModelError
from packhorse_host.quantize.graph import Architecture, KernelCounts
from packhorse_host.quantize.recipes import is_data_free
from packhorse_host.quantize.search.bench import Layer, StaticRecipe

EVALUATION_BATCH: Final = 32
RACE_BUDGET_S: Final = 1.0
CLASS_METRICS: Final = frozenset({"top1_percent", "top5_percent"})
"""Metrics by which the first output holds class scores."""

Announce = Callable[[str], None]
"""Says what is done next."""


@dataclass(frozen=True, eq=False)
class Variant:
    """The model by one recipe, with what this machine found out about it."""

    model: bytes
    golden: GoldenVectors
    sqnr_db: float | None
    """On the golden vectors, the worst output; None for FP32 itself."""
    noise_db: float | None
    """As `sqnr_db`, on all candidates for golden vectors."""
    probe: ProbeLimits
    quality: Quality | None
    data_free: DataFreeCheck | None
    """For a recipe that calibrates on made-up inputs."""


class Workbench:
    """Quantizes, evaluates and times one model; every result is kept."""

    def __init__(
        self, material: Material, emitter: Emitter, requirement: RuntimeRequirement, announce: Announce
    ) -> None:
        self._material = material
        self._emitter = emitter
        self._source = emitter.source
        self._requirement = requirement
        self._announce = announce
        self._variants: dict[bytes, Variant] = {}
        self._kernels: dict[tuple[bytes, Architecture], KernelCounts] = {}
        self._races: dict[tuple[bytes, int], Race] = {}
        self._damages: dict[tuple[bytes, frozenset[str]], float] = {}

    @property
    def vectors_are_synthesized(self) -> bool:
        """Whether there was no data to take golden vectors from."""
        material = self._material
        return material.data is None or (material.made_up is not None and material.evaluation is None)

    def variant(self, recipe: Recipe) -> Variant:
        """The model by `recipe`, evaluated.

        Raises:
            BadInputError: the model does not quantize, or the data does not suit it.
        """
        key = canonical_json(recipe)
        if key not in self._variants:
            self._variants[key] = self._make(recipe)
        return self._variants[key]

    def kernels(self, recipe: Recipe, architecture: Architecture) -> KernelCounts:
        """What the runtime makes of the variant on an architecture."""
        key = canonical_json(recipe), architecture
        if key not in self._kernels:
            self._kernels[key] = self._emitter.count_kernels(self.variant(recipe).model, architecture)
        return self._kernels[key]

    def race(self, recipe: Recipe, threads: int) -> Race:
        """The variant's latency against FP32's, one sample at a time, on this machine."""
        key = canonical_json(recipe), threads
        if key not in self._races:
            self._announce(f"timing {recipe.name} against fp32 on {threads} threads")
            self._races[key] = race(lambda: self._opened(recipe, threads), budget_s=RACE_BUDGET_S)
        return self._races[key]

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """What of the model can be quantized."""
        return self._emitter.layers()

    def damage(self, recipe: StaticRecipe, quantized: Collection[str]) -> float:
        """Noise power over signal power of the outputs when only the nodes `quantized` are quantized."""
        key = canonical_json(recipe), frozenset(quantized)
        if key not in self._damages:
            self._damages[key] = self._measured_damage(recipe, key[1])
        return self._damages[key]

    def _measured_damage(self, recipe: StaticRecipe, quantized: frozenset[str]) -> float:
        outputs = self._run(self._open(self._partly(recipe, quantized), usable_cores()), self._probes)
        noise_db = worst_sqnr_db(self._fp32_on_probes, outputs)
        return 0.0 if noise_db is None else 10 ** (-noise_db / 10)

    def _partly(self, recipe: StaticRecipe, quantized: frozenset[str]) -> bytes:
        calibration = self._material.calibration
        if isinstance(self._emitter, PartEmitter) and calibration is not None:
            return self._emitter.emit_part(recipe, calibration, quantized)
        kept = {node for layer in self.layers for node in layer.nodes} - quantized
        settings = recipe.model_dump(exclude={"name"}) | {"float_nodes": tuple(sorted(kept))}
        # Ranges from the probes alone: what matters is which layers hurt more, not by how much exactly.
        return self._emitter.emit(MixedWi8Ai8.model_validate(settings) if kept else recipe, self._probes)

    @cached_property
    def _probes(self) -> Samples:
        # Noise power settles on fewer samples than scores do.
        data = self._material.calibration or self._pool
        return data.take(candidates(data.count)[::8])

    @cached_property
    def _fp32_on_probes(self) -> dict[str, Array]:
        return self._run(self._fp32, self._probes)

    def _opened(self, recipe: Recipe, threads: int) -> tuple[Run, Run]:
        variant = self.variant(recipe)
        feed = {name: array[:1] for name, array in variant.golden.inputs.items()}
        fp32 = self._open(self._source.data, threads)
        bundle = self._open(variant.model, threads)
        return lambda: fp32.run(feed), lambda: bundle.run(feed)

    def _make(self, recipe: Recipe) -> Variant:
        self._announce(
            f"quantizing by {recipe.name}" if recipe.name != "fp32" else "taking the model as it is"
        )
        model = self._emitter.emit(recipe, self._material.calibration)
        session = self._fp32 if recipe.name == "fp32" else self._open(model, usable_cores())
        quality = self._quality(recipe.name, session)
        on_pool = self._run(session, self._pool)
        noise_db = worst_sqnr_db(self._fp32_on_pool, on_pool)
        golden = self._golden(session, noise_db)
        sqnr_db = None if recipe.name == "fp32" else worst_sqnr_db(golden.fp32, golden.host)
        return Variant(
            model=model,
            golden=golden,
            sqnr_db=sqnr_db,
            noise_db=noise_db,
            probe=self._limits(golden, sqnr_db),
            quality=quality,
            data_free=self._followed(on_pool, noise_db, quality) if is_data_free(recipe) else None,
        )

    def _followed(
        self, on_pool: Mapping[str, Array], noise_db: float | None, quality: Quality | None
    ) -> DataFreeCheck:
        """How the model follows FP32 on the evaluation set, or on made-up inputs where there is none."""
        first = self._first_output
        samples, agreement = self._pool.count, None
        if quality is not None and quality.agreement_percent is not None:
            samples, agreement = quality.samples, quality.agreement_percent
        elif self._decides:
            alike = on_pool[first].argmax(axis=1) == self._fp32_on_pool[first].argmax(axis=1)
            agreement = 100 * float(alike.mean())
        return DataFreeCheck(
            inputs="synthesized" if self.vectors_are_synthesized else "evaluation",
            samples=samples,
            agreement_percent=agreement,
            sqnr_db=None if noise_db is None else round(noise_db, 2),
        )

    def _open(self, model: bytes, threads: int) -> Session:
        requirement = self._requirement.model_copy(update={"threads": threads})
        return open_session(model, requirement, self._source.inputs, self._source.outputs)

    def _golden(self, session: Session, noise_db: float | None) -> GoldenVectors:
        """Choose vectors by how sure FP32 is where this model is noisy, and run both on them."""
        fp32 = self._fp32_on_pool
        limit_db = FP32_SQNR_MIN_DB if noise_db is None else noise_db - SQNR_ALLOWANCE_DB
        count = min(
            self._pool.count, vector_count([*self._pool.arrays.values(), *fp32.values(), *fp32.values()])
        )
        scores = fp32[self._first_output] if self._decides else None
        margin = margin_for(scores, limit_db) if scores is not None else 0.0
        inputs = self._pool.take(choose(scores, margin, count)).arrays
        return GoldenVectors(inputs, self._replayed(self._fp32, inputs), self._replayed(session, inputs))

    def _replayed(self, session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        vectors = GoldenVectors(inputs, inputs, inputs)
        return replay(session.run, self._source.inputs, vectors, time.perf_counter).outputs

    def _limits(self, golden: GoldenVectors, sqnr_db: float | None) -> ProbeLimits:
        fp32, host = golden.fp32[self._first_output], golden.host[self._first_output]
        return probe_limits(sqnr_db, fp32, host, golden.count, classification=self._decides)

    def _quality(self, recipe: str, session: Session) -> Quality | None:
        evaluation = self._material.evaluation
        if evaluation is None:
            return None
        reference = self._fp32_on_evaluation
        if recipe == "fp32":
            outputs = reference
        else:
            self._announce(f"evaluating {recipe} on {evaluation.samples.count} samples")
            outputs = self._run(session, evaluation.samples)
        return compare(self._material.metric, reference, outputs, evaluation.truth, evaluation.sha256)

    def _run(self, session: Session, samples: Samples) -> dict[str, Array]:
        batch = min(self._batch, samples.count)  # a batch is filled up, and all of it runs
        return run_all(session, samples, batch, tensor_names(self._source.outputs))

    @property
    def _batch(self) -> int:
        return 1 if self._source.one_at_a_time else EVALUATION_BATCH

    @property
    def _first_output(self) -> str:
        return self._source.outputs[0].name

    @property
    def _decides(self) -> bool:
        """Whether the first output holds class scores: somebody gave labels, and it has their form."""
        labelled = self._material.evaluation is not None and self._material.metric.name in CLASS_METRICS
        known = self._material.labels is not None or labelled
        scores = self._fp32_on_pool[self._first_output]
        return known and scores.ndim == 2 and scores.shape[1] > 1

    @cached_property
    def _fp32(self) -> Session:
        return self._open(self._source.data, usable_cores())

    @cached_property
    def _fp32_on_evaluation(self) -> dict[str, Array]:
        evaluation = self._material.evaluation
        assert evaluation is not None  # noqa: S101
        self._announce(f"evaluating fp32 on {evaluation.samples.count} samples")
        return self._run(self._fp32, evaluation.samples)

    @cached_property
    def _pool(self) -> ArraySamples:
        data = self._material.data
        pool = data.take(candidates(data.count)) if data else synthesized(self._source.inputs)
        if pool is None:
            raise ConfigError(
                "golden vectors need inputs, and the model's have free axes: "
                "give --calibration or --evaluation FILE.npz"
            )
        return pool

    @cached_property
    def _fp32_on_pool(self) -> dict[str, Array]:
        outputs = self._run(self._fp32, self._pool)
        wrong = [name for name, array in outputs.items() if not np.isfinite(array).all()]
        if wrong:
            raise ModelError(f"the float model itself gives NaN or infinity in {', '.join(wrong)}")
        return outputs
