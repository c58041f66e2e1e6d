"""Yes or no for each frame, as wake words and voice activity: accuracy at a threshold, and AUC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packhorse_agent.contract.manifest import BuiltInMetric
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_host.evaluate.errors import LabelsError, OutputsError
from packhorse_host.evaluate.metrics.base import (
    Floats,
    ShareMetric,
    Truth,
    WeightedMetric,
    integer_labels,
    one_output,
)


def yes_scores(outputs: Tensors, output: str | None, metric: str) -> Floats:
    """The score of \"yes\" for each sample, [N]: one number, or the second of two less the first.

    Raises:
        OutputsError: the output has neither one nor two numbers for a sample.
    """
    scores = one_output(outputs, output)
    table = scores.reshape(len(scores), -1).astype(np.float64)
    if table.shape[1] not in (1, 2):
        raise OutputsError(
            f"{metric} needs one score for each sample, or one each for no and yes; "
            f"found shape {list(scores.shape)}"
        )
    return table[:, 0] if table.shape[1] == 1 else table[:, 1] - table[:, 0]


@dataclass(frozen=True)
class FrameAccuracy(ShareMetric):
    """Share of frames decided rightly. Truth: `labels`, 0 or 1, [N]."""

    name: ClassVar[BuiltInMetric] = "frame_accuracy_percent"
    needs: ClassVar[tuple[str, ...]] = ("labels",)

    threshold: float = 0.5
    """A score above it is a yes; with two outputs the score is their difference, so that 0 is usual."""
    output: str | None = None

    def per_sample(self, outputs: Tensors, truth: Truth) -> Floats:
        """1 where the decision is right, [N].

        Raises:
            OutputsError: neither one nor two numbers for a sample.
            LabelsError: `labels` are missing, or neither 0 nor 1.
        """
        hits: Floats = (self.decisions(outputs) == integer_labels(truth, self.name, 2)).astype(np.float64)
        return hits

    def decisions(self, outputs: Tensors) -> Array:
        """Whether each frame is a yes, [N]."""
        decided: Array = yes_scores(outputs, self.output, self.name) > self.threshold
        return decided


@dataclass(frozen=True)
class Auc(WeightedMetric):
    """Area under the ROC curve: how often a yes scores higher than a no, a tie counting half.

    The Mann-Whitney statistic (Hanley and McNeil, "The Meaning and Use of the Area under a ROC Curve",
    Radiology 143 (1982), 29-36). Truth: `labels`, 0 or 1, [N], both of them there.
    """

    name: ClassVar[BuiltInMetric] = "auc_percent"
    needs: ClassVar[tuple[str, ...]] = ("labels",)

    output: str | None = None

    def check(self, truth: Truth) -> None:
        """See `WeightedMetric.check`.

        Raises:
            LabelsError: `labels` are neither 0 nor 1, or all alike.
        """
        labels = integer_labels(truth, self.name, 2)
        if len(np.unique(labels)) < 2:
            raise LabelsError(f"{self.name} needs frames of both kinds; all labels are {int(labels[0])}")

    def per_sample(self, outputs: Tensors, truth: Truth) -> Floats:
        """Score and label, [N, 2].

        Raises:
            OutputsError: neither one nor two numbers for a sample.
            LabelsError: `labels` are missing, or neither 0 nor 1.
        """
        labels = integer_labels(truth, self.name, 2)
        return np.stack([yes_scores(outputs, self.output, self.name), labels.astype(np.float64)], axis=1)

    def resampled(self, statistics: Floats, counts: Floats) -> Floats:
        """See `WeightedMetric.resampled`; NaN for a resample with one kind only."""
        order = np.argsort(statistics[:, 0], kind="stable")
        scores, labels = statistics[order].T
        groups = np.flatnonzero(np.diff(scores, prepend=np.nan) != 0)
        ordered = counts[:, order]
        yes = np.add.reduceat(ordered * labels, groups, axis=1)
        no = np.add.reduceat(ordered, groups, axis=1) - yes
        beaten = np.cumsum(no, axis=1) - no / 2
        with np.errstate(invalid="ignore"):
            areas: Floats = 100 * (yes * beaten).sum(axis=1) / (yes.sum(axis=1) * no.sum(axis=1))
        return areas
