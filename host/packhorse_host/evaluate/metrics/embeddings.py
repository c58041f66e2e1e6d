"""Embeddings: how close they stay to the float model's, and what a linear probe still tells from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

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
from packhorse_host.evaluate.metrics.free import reference_of

FOLDS: Final = 5
RIDGE: Final = 0.01
"""Of the mean variance of a feature: keeps the fit steady where there are more features than samples."""
CLASSES_MAX: Final = 10_000

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EmbeddingCosine(WeightedMetric):
    """Mean cosine between each embedding and the float model's, in percent: can both live in one index?"""

    name: ClassVar[BuiltInMetric] = "cosine_percent"

    output: str | None = None
    """The embedding, [N, ...]; by default the first output."""

    def per_sample(self, outputs: Tensors, truth: Truth) -> Floats:
        """Cosine of each sample, [N]; 1 where both are 0, 0 where one is.

        Raises:
            OutputsError: no float model to compare with, or an embedding of another shape.
        """
        reference = one_output(reference_of(truth, self.name), self.output)
        found = one_output(outputs, self.output)
        if found.shape != reference.shape:
            raise OutputsError(
                f"{self.name}: embeddings {list(found.shape)}, the float model's are {list(reference.shape)}"
            )
        first, second = _flat(reference), _flat(found)
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        cosines = np.divide(
            (first * second).sum(axis=1), lengths, out=np.zeros(len(first)), where=lengths > 0
        )
        return np.where((first == second).all(axis=1), 1.0, cosines)

    def resampled(self, statistics: Floats, counts: Floats) -> Floats:
        """See `WeightedMetric.resampled`."""
        means: Floats = 100 * (counts @ statistics) / counts.sum(axis=1)
        return means


@dataclass(frozen=True)
class LinearProbe(ShareMetric):
    """Accuracy of a linear classifier that is fitted on the model's own embeddings.

    As in MTEB (Muennighoff et al., "MTEB: Massive Text Embedding Benchmark", EACL 2023, section 3.1) each
    model gets a classifier of its own; here ridge regression on one-hot classes, in closed form. Five fixed
    folds by position: each sample is judged by a fit on the four others. Truth: `labels`, classes [N].
    """

    name: ClassVar[BuiltInMetric] = "linear_probe_percent"
    needs: ClassVar[tuple[str, ...]] = ("labels",)
    by_batch: ClassVar[bool] = False

    output: str | None = None

    def check(self, truth: Truth) -> None:
        """See `WeightedMetric.check`.

        Raises:
            LabelsError: `labels` are no classes, of one class only, or too few.
        """
        labels = integer_labels(truth, self.name, CLASSES_MAX)
        if truth.count < 2 * FOLDS or len(np.unique(labels)) < 2:
            raise LabelsError(
                f"{self.name} needs {2 * FOLDS} samples of 2 classes at least, "
                f"found {truth.count} of {len(np.unique(labels))}"
            )

    def per_sample(self, outputs: Tensors, truth: Truth) -> Floats:
        """1 where the probe is right, [N].

        Raises:
            LabelsError: `labels` are missing or no classes.
            OutputsError: embeddings that are not finite.
        """
        labels = integer_labels(truth, self.name, CLASSES_MAX)
        decided = probe(_flat(one_output(outputs, self.output)), labels)
        hits: Floats = (decided == labels).astype(np.float64)
        return hits


def probe(features: Floats, labels: Integers) -> Integers:
    """What a ridge classifier says of each sample when it is fitted without the sample's fold: [N, d] to [N].

    Raises:
        OutputsError: features that are not finite.
    """
    if not np.isfinite(features).all():
        raise OutputsError("a linear probe cannot be fitted to embeddings that are not finite")
    classes, index = np.unique(labels, return_inverse=True)
    targets = np.eye(len(classes))[index]
    fold = np.arange(len(features)) % FOLDS
    decided = np.empty(len(features), np.int64)
    for each in range(FOLDS):
        kept, held = fold != each, fold == each
        decided[held] = classes[_ridge(features[kept], targets[kept], features[held]).argmax(axis=1)]
    return decided


def _ridge(features: Floats, targets: Floats, asked: Floats) -> Floats:
    """Scores of `asked` [M, d] by ridge regression of targets [N, c] on features [N, d], both centred."""
    middle, offset = features.mean(axis=0), targets.mean(axis=0)
    centred = features - middle
    penalty = RIDGE * float((centred**2).sum()) / features.shape[1] or 1.0
    if features.shape[0] < features.shape[1]:
        kernel = centred @ centred.T + penalty * np.eye(len(centred))
        weights = centred.T @ np.linalg.solve(kernel, targets - offset)
    else:
        covariance = centred.T @ centred + penalty * np.eye(features.shape[1])
        weights = np.linalg.solve(covariance, centred.T @ (targets - offset))
    scores: Floats = (asked - middle) @ weights + offset
    return scores


def _flat(array: Array) -> Floats:
    return array.reshape(len(array), -1).astype(np.float64)
