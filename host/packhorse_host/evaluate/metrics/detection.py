"""Detection: average precision as COCO defines it, at one overlap.

Source: the COCO evaluation (Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, and its
`pycocotools.cocoeval`): matching by descending score, each truth once; precision made monotone and read at
101 points of recall; the mean over classes that the truth knows; at most 100 boxes of a class in an image.
There are no crowd regions here.

The model's outputs are `boxes` [N, K, 4] as x1, y1, x2, y2 in the truth's units, `scores` [N, K] and
`classes` [N, K]; boxes with a score of 0 or a class below 0 fill up. What a model gives otherwise a decoder
turns into these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from packhorse_agent.contract.manifest import BuiltInMetric
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_host.evaluate.errors import LabelsError, OutputsError
from packhorse_host.evaluate.metrics.base import Floats, Truth, WeightedMetric

Decoder = Callable[[Tensors], Tensors]
"""Outputs as the model gives them → `boxes`, `scores` and `classes`."""
Bools = npt.NDArray[np.bool_]

BOXES_MAX: Final = 100
"""Boxes of one class in one image that count, best first."""
RECALLS: Final = np.linspace(0, 1, 101)
_CELLS_MAX: Final = 1_000_000
"""Resamples times boxes at once: bounds memory."""
_TRUTH, _MISS, _HIT = 2.0, 0.0, 1.0


@dataclass(frozen=True)
class AveragePrecision(WeightedMetric):
    """Mean over classes of the average precision at `overlap`.

    Truth: `boxes` [N, M, 4], `classes` [N, M], `box_counts` [N]; what is beyond the count fills up.
    """

    needs: ClassVar[tuple[str, ...]] = ("boxes", "classes", "box_counts")
    overlap: ClassVar[float]
    """Intersection over union from where on a box is found."""

    decoder: Decoder | None = None

    def check(self, truth: Truth) -> None:
        """See `WeightedMetric.check`.

        Raises:
            LabelsError: truth that is no boxes, or not one.
        """
        _, _, counts = _truth(truth, self.name)
        if not counts.any():
            raise LabelsError(f"{self.name} needs at least one true box; all `box_counts` are 0")

    def per_sample(self, outputs: Tensors, truth: Truth) -> Floats:
        """Rows of class, score, and 1 for a hit, 0 for a miss, 2 for a true box: [N, rows, 3].

        Class -1 fills up.

        Raises:
            OutputsError: outputs that are no boxes.
            LabelsError: truth that is no boxes.
        """
        decoded = outputs if self.decoder is None else self.decoder(outputs)
        found = _outputs(decoded, self.name, truth.count)
        wanted = _truth(truth, self.name)
        parts = (*found, *wanted)
        return _filled_up([self._rows(*(part[index] for part in parts)) for index in range(truth.count)])

    def joined(self, parts: Sequence[Floats]) -> Floats:
        """See `WeightedMetric.joined`."""
        return _filled_up([row for part in parts for row in part])

    def resampled(self, statistics: Floats, counts: Floats) -> Floats:
        """See `WeightedMetric.resampled`; NaN for a resample without a true box."""
        classes, scores, kinds = statistics.reshape(-1, 3).T
        image = np.repeat(np.arange(len(statistics)), statistics.shape[1])
        of_truth = kinds == _TRUTH
        precisions = []
        for each in np.unique(classes[of_truth]):
            here = np.flatnonzero(classes == each)
            answers, truths = here[~of_truth[here]], here[of_truth[here]]
            ranked = answers[np.argsort(-scores[answers], kind="stable")]
            hits = kinds[ranked] == _HIT
            step = max(1, _CELLS_MAX // max(1, len(ranked)))
            parts = [counts[start : start + step] for start in range(0, len(counts), step)]
            found = [
                _precision(hits, part[:, image[ranked]], part[:, image[truths]].sum(axis=1)) for part in parts
            ]
            precisions.append(np.concatenate(found))
        return _mean_of_known(np.array(precisions))

    def _rows(
        self, boxes: Array, scores: Array, classes: Array, true_boxes: Array, true_classes: Array, count: int
    ) -> Floats:
        true_boxes, true_classes = true_boxes[:count], true_classes[:count]
        real = np.flatnonzero((scores > 0) & (classes >= 0))
        chosen = _best_of_each_class(real[np.argsort(-scores[real], kind="stable")], classes)
        same = classes[chosen][:, np.newaxis] == true_classes
        overlaps = np.where(same, overlap_matrix(boxes[chosen], true_boxes), -1.0)
        found = np.stack([classes[chosen], scores[chosen], match(overlaps, self.overlap)], axis=1)
        wanted = np.stack([true_classes, np.zeros(count), np.full(count, _TRUTH)], axis=1)
        return np.concatenate([wanted, found])


@dataclass(frozen=True)
class Ap50(AveragePrecision):
    """Average precision where half of both boxes together overlaps: forgiving about where a box is."""

    name: ClassVar[BuiltInMetric] = "ap50_percent"
    overlap: ClassVar[float] = 0.5


@dataclass(frozen=True)
class Ap75(AveragePrecision):
    """Average precision at an overlap of three quarters: shows boxes that drift before they are lost."""

    name: ClassVar[BuiltInMetric] = "ap75_percent"
    overlap: ClassVar[float] = 0.75


def overlap_matrix(boxes: Array, others: Array) -> Floats:
    """Intersection over union of boxes [K, 4] and others [M, 4], each x1, y1, x2, y2: [K, M]."""
    first, second = boxes.astype(np.float64)[:, np.newaxis], others.astype(np.float64)[np.newaxis]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    common = np.clip(sides, 0, None).prod(axis=-1)
    union = _area(first) + _area(second) - common
    overlaps: Floats = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return overlaps


def match(overlaps: Floats, least: float) -> Bools:
    """Which boxes, best first, find a true box that no better one took: overlaps [K, M] to [K]."""
    free = np.ones(overlaps.shape[1], np.bool_)
    hits = np.zeros(len(overlaps), np.bool_)
    for index in np.flatnonzero((overlaps >= least).any(axis=1)):
        row = overlaps[index]
        candidates = np.where(free, row, -1.0)
        # of equal overlaps the last, as in COCO's own evaluation
        best = len(row) - 1 - int(np.argmax(candidates[::-1]))
        if candidates[best] >= least:
            free[best], hits[index] = False, True
    return hits


def _filled_up(rows: Sequence[Floats]) -> Floats:
    table = np.full((len(rows), max(map(len, rows)), 3), [-1.0, 0.0, _MISS])
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table


def _area(boxes: Floats) -> Floats:
    areas: Floats = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(axis=-1)
    return areas


def _best_of_each_class(ranked: Array, classes: Array) -> Array:
    """The first `BOXES_MAX` of each class among `ranked`, which are indexes, best first."""
    if len(ranked) <= BOXES_MAX:
        return ranked
    kept = np.zeros(len(ranked), np.bool_)
    for each in np.unique(classes[ranked]):
        kept[np.flatnonzero(classes[ranked] == each)[:BOXES_MAX]] = True
    return ranked[kept]


def _precision(hits: Bools, counts: Floats, truths: Floats) -> Floats:
    """Average precision of one class for each resample: hits [D] best first, counts [R, D], truths [R].

    Precision falls from each hit to the next, so that hits are all that has to be looked at.
    """
    found = np.where(truths > 0, 0.0, np.nan)
    places = np.flatnonzero(hits)
    if not len(places):
        return found
    starts = np.concatenate([[0], places[:-1] + 1])
    seen = np.cumsum(np.add.reduceat(counts[:, : places[-1] + 1], starts, axis=1), axis=1)
    right = np.cumsum(counts[:, places], axis=1)
    precision = np.divide(right, seen, out=np.zeros_like(seen), where=seen > 0)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    for index in np.flatnonzero(truths):
        reached = np.searchsorted(right[index] / truths[index], RECALLS, side="left")
        reached = reached[reached < len(places)]
        found[index] = 100 * precision[index, reached].sum() / len(RECALLS)
    return found


def _mean_of_known(precisions: Floats) -> Floats:
    known = ~np.isnan(precisions)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(known, precisions, 0).sum(axis=0) / known.sum(axis=0)
    return means


def _outputs(outputs: Tensors, metric: str, count: int) -> tuple[Array, Array, Array]:
    missing = [name for name in ("boxes", "scores", "classes") if name not in outputs]
    if missing:
        raise OutputsError(
            f"{metric} needs the outputs `boxes`, `scores` and `classes`, found {', '.join(outputs)}; "
            "a decoder turns others into these"
        )
    boxes, scores, classes = outputs["boxes"], outputs["scores"], outputs["classes"]
    alike = boxes.shape[:2] == scores.shape == classes.shape
    if boxes.ndim != 3 or boxes.shape[0] != count or boxes.shape[2] != 4 or not alike:
        raise OutputsError(
            f"{metric} needs boxes [{count}, K, 4], scores [{count}, K] and classes [{count}, K], found "
            f"{list(boxes.shape)}, {list(scores.shape)} and {list(classes.shape)}"
        )
    return boxes, scores, np.rint(classes)


def _truth(truth: Truth, metric: str) -> tuple[Array, Array, Array]:
    boxes, classes, counts = (truth.array(name, metric) for name in ("boxes", "classes", "box_counts"))
    whole = classes.dtype.kind in "iu" and counts.dtype.kind in "iu"
    if boxes.ndim != 3 or boxes.shape[2] != 4 or classes.shape != boxes.shape[:2] or not whole:
        raise LabelsError(
            f"truth for {metric}: `boxes` [N, M, 4] and integer `classes` [N, M] are expected, "
            f"found {list(boxes.shape)} and {classes.dtype} {list(classes.shape)}"
        )
    if counts.shape != (len(boxes),) or (counts < 0).any() or (counts > boxes.shape[1]).any():
        raise LabelsError(f"`box_counts` must be [N] integers of 0 to {boxes.shape[1]} for {metric}")
    used = np.arange(boxes.shape[1]) < counts[:, np.newaxis]
    _check_boxes(boxes[used], classes[used], truth.first + np.argwhere(used)[:, 0])
    return boxes, classes, counts


def _check_boxes(boxes: Array, classes: Array, samples: Array) -> None:
    wrong = ~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] <= boxes[:, :2]).any(axis=1) | (classes < 0)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise LabelsError(
            f"true box {boxes[first].tolist()} of class {int(classes[first])} in sample {samples[first]}: "
            "x1 < x2, y1 < y2 and a class from 0 on are expected"
        )
