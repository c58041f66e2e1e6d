"""Classification: the right class is the best one, or among the best five."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packhorse_agent.contract.manifest import BuiltInMetric
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_host.evaluate.errors import OutputsError
from packhorse_host.evaluate.metrics.base import Floats, ShareMetric, Truth, integer_labels, one_output


@dataclass(frozen=True)
class Top1(ShareMetric):
    """Share of samples whose label has the highest score. Truth: `labels`, class indexes [N]."""

    name: ClassVar[BuiltInMetric] = "top1_percent"
    needs: ClassVar[tuple[str, ...]] = ("labels",)
    best: ClassVar[int] = 1
    """How many classes count as found."""

    output: str | None = None
    """The scores, [N, classes]; by default the first output."""

    def per_sample(self, outputs: Tensors, truth: Truth) -> Floats:
        """1 where the label is among the best, [N]; of equal scores the lower class is the better.

        Raises:
            OutputsError: the output is no table of class scores, or has too few classes to tell.
            LabelsError: `labels` are missing or no classes of the model.
        """
        scores = self._scores(outputs)
        labels = integer_labels(truth, self.name, scores.shape[1])
        own = np.take_along_axis(scores, labels[:, np.newaxis], axis=1)
        before = np.arange(scores.shape[1]) < labels[:, np.newaxis]
        rank = ((scores > own) | ((scores == own) & before)).sum(axis=1)
        hits: Floats = (rank < self.best).astype(np.float64)
        return hits

    def decisions(self, outputs: Tensors) -> Array:
        """The best class of each sample, [N]."""
        decided: Array = self._scores(outputs).argmax(axis=1)
        return decided

    def _scores(self, outputs: Tensors) -> Array:
        scores = one_output(outputs, self.output)
        if scores.ndim != 2 or scores.shape[1] <= self.best:
            raise OutputsError(
                f"{self.name} needs scores of shape [samples, classes] with more than {self.best} classes, "
                f"found {list(scores.shape)}"
            )
        return scores


@dataclass(frozen=True)
class Top5(Top1):
    """Share of samples whose label is among the five highest scores. Truth: as `Top1`."""

    name: ClassVar[BuiltInMetric] = "top5_percent"
    best: ClassVar[int] = 5
