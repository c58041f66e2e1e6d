"""What a metric keeps of a model's outputs, batch by batch: raw outputs of many samples would fill memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_host.evaluate.errors import OutputsError, OwnMetricError
from packhorse_host.evaluate.metrics.base import Decides, Floats, Metric, Truth, WeightedMetric


@dataclass(frozen=True, eq=False)
class Gathered:
    """What is left of one model's outputs on a data set."""

    statistics: Floats
    """As `Metric.per_sample` gives them, finite."""
    decisions: Array | None
    """[N]; None where the metric knows none."""
    outputs_sha256: str
    """Of the outputs themselves: alike for models that are alike to the last bit."""


class Gatherer:
    """Takes the outputs of one model, a batch after the other, in the order of the samples."""

    def __init__(self, metric: Metric, truth: Truth, who: str) -> None:
        """`truth` is of all samples; `who` is what errors call the model."""
        self._metric, self._truth, self._who = metric, truth, who
        self._whole = not (isinstance(metric, WeightedMetric) and metric.by_batch)
        self._count = 0
        self._statistics: list[Floats] = []
        self._decisions: list[Array] = []
        self._kept: list[tuple[Tensors, Tensors | None]] = []
        self._digests: dict[str, Any] = {}

    def add(self, outputs: Tensors, reference: Tensors | None) -> None:
        """Take the outputs on the next samples, beside the float model's on the same ones, if there is one.

        Raises:
            OutputsError: outputs do not suit the metric, or hold NaN.
            LabelsError: the truth does not suit the metric.
            OwnMetricError: a metric that is not ours does not keep to the protocol.
        """
        size = len(next(iter(outputs.values())))
        for name, array in outputs.items():
            self._check(name, array, size)
            part = np.ascontiguousarray(array)
            digest = self._digests.setdefault(name, hashlib.sha256(f"{part.dtype}{part.shape[1:]}".encode()))
            digest.update(part.tobytes())
        if self._whole:
            self._kept.append((outputs, reference))
        else:
            part_truth = self._truth.part(self._count, self._count + size)
            self._score(outputs, part_truth.beside(reference))
        self._count += size

    def done(self) -> Gathered:
        """What is left, when all samples were taken.

        Raises:
            OutputsError, LabelsError, OwnMetricError: as `add`, for a metric that wants all at once.
        """
        if self._count != self._truth.count:
            raise OutputsError(f"{self._who} has outputs for {self._count} of {self._truth.count} samples")
        if self._whole:
            reference = [beside for _, beside in self._kept if beside is not None]
            whole = self._truth.beside(_joined(reference) if reference else None)
            self._score(_joined([outputs for outputs, _ in self._kept]), whole)
        joined = self._metric.joined if isinstance(self._metric, WeightedMetric) else np.concatenate
        statistics = joined(self._statistics)
        self._check_finite(statistics)
        decisions = np.concatenate(self._decisions) if self._decisions else None
        names = sorted((name, digest.hexdigest()) for name, digest in self._digests.items())
        return Gathered(statistics, decisions, hashlib.sha256(repr(names).encode()).hexdigest())

    def _score(self, outputs: Tensors, truth: Truth) -> None:
        statistics = np.asarray(self._metric.per_sample(outputs, truth))
        if statistics.shape[:1] != (truth.count,) or statistics.dtype.kind not in "fiub":
            raise OwnMetricError(
                f"{self._metric.name}: per_sample must give numbers whose first axis counts the "
                f"{truth.count} samples, found {statistics.dtype} {list(statistics.shape)}"
            )
        self._statistics.append(statistics.astype(np.float64))
        if isinstance(self._metric, Decides):
            self._decisions.append(np.asarray(self._metric.decisions(outputs)))

    def _check(self, name: str, array: Array, size: int) -> None:
        if array.shape[:1] != (size,) or self._count + size > self._truth.count:
            raise OutputsError(
                f"{self._who}: output `{name}` has shape {list(array.shape)} "
                f"for {self._truth.count - self._count} samples"
            )
        if array.dtype.kind == "f" and np.isnan(array).any():
            first = self._count + int(np.argmax(np.isnan(array).reshape(size, -1).any(axis=1)))
            raise OutputsError(f"{self._who} gives NaN in output `{name}`, first in sample {first}")

    def _check_finite(self, statistics: Floats) -> None:
        finite = np.isfinite(statistics).reshape(len(statistics), -1).all(axis=1)
        if not finite.all():
            raise OutputsError(
                f"{self._metric.name}: {self._who} has no finite statistics on {int((~finite).sum())} of "
                f"{len(statistics)} samples, first on sample {int(np.argmin(finite))}"
            )


def gather(metric: Metric, outputs: Tensors, reference: Tensors, truth: Truth, who: str) -> Gathered:
    """What is left of outputs that are all in memory; raises as `Gatherer`."""
    gatherer = Gatherer(metric, truth, who)
    gatherer.add(outputs, reference)
    return gatherer.done()


def _joined(parts: list[Tensors]) -> Tensors:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
