"""What a metric is, and what most of ours have in common.

A metric works in two steps: statistics of each sample, then one score from those of all samples. What lies
between them is drawn again and again by the bootstrap (`packhorse_host.evaluate.compare`), with the float and
the quantized model on the same samples, which gives the drop its interval.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from packhorse_agent.contract.manifest import BuiltInMetric, MetricName, MetricUnit
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_host.evaluate.errors import LabelsError, OutputsError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Truth:
    """What is right for each sample; which arrays there are is up to the metric."""

    count: int
    """How many samples."""
    arrays: Tensors = field(default_factory=dict)
    """`labels`, `boxes`, `texts` and so on; the first axis counts samples."""
    reference: Tensors | None = None
    """Outputs of the float model on the same samples, for metrics that compare with it."""
    first: int = 0
    """Which sample of the data set the first one is, for errors."""

    def array(self, name: str, metric: str) -> Array:
        """The array `name`.

        Raises:
            LabelsError: there is none; the text says that `metric` wants it.
        """
        if name not in self.arrays:
            there = ", ".join(f"`{each}`" for each in sorted(self.arrays)) or "no truth at all"
            raise LabelsError(f"{metric} needs the array `{name}` in the evaluation set; it has {there}")
        return self.arrays[name]

    def beside(self, reference: Tensors | None) -> Truth:
        """The same truth, with the float model's outputs."""
        return replace(self, reference=reference)

    def part(self, start: int, stop: int) -> Truth:
        """The truth of the samples from `start` to `stop`, without the float model's outputs."""
        arrays = {name: array[start:stop] for name, array in self.arrays.items()}
        return Truth(stop - start, arrays, first=self.first + start)

    def take(self, indexes: Sequence[int]) -> Truth:
        """The truth of the samples at `indexes`, in that order."""
        chosen = list(indexes)
        arrays = {name: array[chosen] for name, array in self.arrays.items()}
        reference = self.reference
        if reference is not None:
            reference = {name: array[chosen] for name, array in reference.items()}
        return Truth(len(chosen), arrays, reference)


class Metric(Protocol):
    """What `compare` needs; an own metric is any class that has these five."""

    @property
    def name(self) -> MetricName:
        """As evidence names it."""

    @property
    def unit(self) -> MetricUnit:
        """Of the score: `percent`, `db`, or another word."""

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher score is the better one."""

    def per_sample(self, outputs: Tensors, truth: Truth) -> Floats:
        """Statistics of each sample, finite, the first axis counting samples; further axes are free.

        Args:
            outputs: of the model, by name, in its order; the first axis counts samples.
            truth: of the same samples.
        """

    def aggregate(self, statistics: Floats) -> float:
        """One score from the statistics of some samples, in `unit`; their order does not matter."""


@runtime_checkable
class Decides(Protocol):
    """A metric whose model decides something for each sample, so that two models can agree."""

    def decisions(self, outputs: Tensors) -> Array:
        """The decision on each sample, [N]."""


class WeightedMetric(ABC):
    """A metric that scores many resamples at once, each told by how often it holds each sample."""

    name: ClassVar[BuiltInMetric]
    unit: ClassVar[MetricUnit] = "percent"
    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    """Arrays that the truth must have."""
    by_batch: ClassVar[bool] = True
    """Whether statistics of a sample do not depend on the others, so that outputs need not be kept."""

    def check(self, truth: Truth) -> None:
        """Look at the truth of all samples before any model runs.

        Raises:
            LabelsError: it is missing, or does not suit the metric.
        """
        for name in self.needs:
            truth.array(name, self.name)

    def joined(self, parts: Sequence[Floats]) -> Floats:
        """Statistics of all samples from those of batches."""
        return np.concatenate(parts)

    @abstractmethod
    def per_sample(self, outputs: Tensors, truth: Truth) -> Floats:
        """See `Metric.per_sample`."""

    @abstractmethod
    def resampled(self, statistics: Floats, counts: Floats) -> Floats:
        """Scores of R resamples.

        Args:
            statistics: as `per_sample` gives them, [N, ...].
            counts: how often each resample holds each sample, [R, N].

        Returns:
            [R]; NaN where a resample has no score.
        """

    def aggregate(self, statistics: Floats) -> float:
        """See `Metric.aggregate`."""
        return float(self.resampled(statistics, np.ones((1, len(statistics))))[0])


class ShareMetric(WeightedMetric):
    """A share of samples in percent: statistics are 1 for a hit and 0 for a miss, [N]."""

    def resampled(self, statistics: Floats, counts: Floats) -> Floats:
        """See `WeightedMetric.resampled`."""
        shares: Floats = 100 * (counts @ statistics) / counts.sum(axis=1)
        return shares


def one_output(outputs: Tensors, name: str | None) -> Array:
    """The output called `name`; the first where none is named.

    Raises:
        OutputsError: the model has no such output.
    """
    if name is None:
        return next(iter(outputs.values()))
    if name not in outputs:
        raise OutputsError(f"the model has no output `{name}`; it has {', '.join(outputs)}")
    return outputs[name]


def integer_labels(truth: Truth, metric: str, classes: int) -> npt.NDArray[np.int64]:
    """`labels`, one class for each sample, [N].

    Raises:
        LabelsError: none, not one integer for each sample, or a label that is no class.
    """
    labels = truth.array("labels", metric)
    if labels.dtype.kind not in "iu":
        raise LabelsError(f"`labels` must be integers, found {labels.dtype}")
    if labels.shape != (truth.count,):
        raise LabelsError(
            f"`labels` must have one class for each sample: expected shape [{truth.count}], "
            f"found {list(labels.shape)}"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise LabelsError(
            f"labels must be 0 to {classes - 1}, found {int(labels[wrong[0]])} "
            f"in sample {truth.first + int(wrong[0])} "
            f"({wrong.size} out of range)"
        )
    return labels.astype(np.int64)
