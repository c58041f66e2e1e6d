"""Outputs that are no decisions: how much noise the quantized model adds to each of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from packhorse_agent.contract.manifest import BuiltInMetric, MetricUnit
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_host.evaluate.errors import OutputsError
from packhorse_host.evaluate.metrics.base import Floats, Truth, WeightedMetric

SQNR_MAX_DB: Final = 144.5
"""Score of a model without noise: what the 24 bits of a float32 tell apart, 20 log10(2^24)."""
SQNR_MIN_DB: Final = -100.0


@dataclass(frozen=True)
class Fidelity:
    """How close an output is to the float model's, over all samples."""

    output: str
    sqnr_db: float
    """Signal to quantization noise; `SQNR_MAX_DB` at most, `SQNR_MIN_DB` at least."""
    cosine_percent: float


class FidelityTally:
    """Adds up how close outputs are, batch by batch."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._powers: Floats | None = None

    def add(self, reference: Tensors, actual: Tensors) -> None:
        """Take the outputs of both models on some samples.

        Raises:
            OutputsError: an output is missing or of another shape.
        """
        powers = _powers(reference, actual).sum(axis=0, keepdims=True)
        self._names = tuple(reference)
        self._powers = powers if self._powers is None else self._powers + powers

    def outputs(self) -> tuple[Fidelity, ...]:
        """SQNR and cosine of each output over all that was added."""
        if self._powers is None:
            return ()
        one = np.ones((1, 1))
        sqnr, cosine = _sqnr_db(self._powers[..., 0], self._powers[..., 3]), _cosine(one, self._powers)
        return tuple(
            Fidelity(name, float(sqnr[0, index]), 100 * float(cosine[0, index]))
            for index, name in enumerate(self._names)
        )


class _FreeMetric(WeightedMetric):
    def per_sample(self, outputs: Tensors, truth: Truth) -> Floats:
        """Powers of signal, answer, both together and noise of each output, [N, outputs, 4].

        Raises:
            OutputsError: no float model to compare with, or outputs of another shape.
        """
        return _powers(reference_of(truth, self.name), outputs)


@dataclass(frozen=True)
class OutputSqnr(_FreeMetric):
    """Signal to quantization noise of the worst output, `10 log10(sum(r^2) / sum((r - a)^2))`. No truth."""

    name: ClassVar[BuiltInMetric] = "output_sqnr_db"
    unit: ClassVar[MetricUnit] = "db"

    def resampled(self, statistics: Floats, counts: Floats) -> Floats:
        """See `WeightedMetric.resampled`."""
        signal, noise = _summed(counts, statistics[..., 0]), _summed(counts, statistics[..., 3])
        worst: Floats = _sqnr_db(signal, noise).min(axis=1)
        return worst


@dataclass(frozen=True)
class OutputCosine(_FreeMetric):
    """Cosine between the worst output and the float model's, over all samples, in percent. No truth."""

    name: ClassVar[BuiltInMetric] = "output_cosine_percent"

    def resampled(self, statistics: Floats, counts: Floats) -> Floats:
        """See `WeightedMetric.resampled`."""
        worst: Floats = 100 * _cosine(counts, statistics).min(axis=1)
        return worst


def reference_of(truth: Truth, metric: str) -> Tensors:
    """The float model's outputs.

    Raises:
        OutputsError: there are none.
    """
    if truth.reference is None:
        raise OutputsError(f"{metric} compares with the float model, whose outputs are not there")
    return truth.reference


def _powers(reference: Tensors, actual: Tensors) -> Floats:
    columns = [_power(name, array, actual.get(name)) for name, array in reference.items()]
    return np.stack(columns, axis=1)


def _power(name: str, reference: Array, actual: Array | None) -> Floats:
    if actual is None or actual.shape != reference.shape:
        found = "missing" if actual is None else f"of shape {list(actual.shape)}"
        raise OutputsError(f"output `{name}` is {found}, the float model's has {list(reference.shape)}")
    r = reference.reshape(len(reference), -1).astype(np.float64)
    a = actual.reshape(len(actual), -1).astype(np.float64)
    return np.stack([(r * r).sum(1), (a * a).sum(1), (r * a).sum(1), ((r - a) ** 2).sum(1)], axis=1)


def _summed(counts: Floats, columns: Floats) -> Floats:
    sums: Floats = counts @ columns
    return sums


def _sqnr_db(signal: Floats, noise: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(signal / noise)
    ratio = np.where(noise == 0, math.inf, np.where(signal == 0, -math.inf, ratio))
    bounded: Floats = np.clip(ratio, SQNR_MIN_DB, SQNR_MAX_DB)
    return bounded


def _cosine(counts: Floats, powers: Floats) -> Floats:
    signal, answer, both, noise = (_summed(counts, powers[..., column]) for column in range(4))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = both / np.sqrt(signal * answer)
    cosine = np.where(signal * answer == 0, 0.0, cosine)
    return np.where(noise == 0, 1.0, np.clip(cosine, -1.0, 1.0))
