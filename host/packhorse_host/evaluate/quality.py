"""Scores of two models on the same labelled samples. Pure: arrays in, figures out."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from packhorse_agent.contract.manifest import Quality
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.errors import LabelsError
from packhorse_host.evaluate.intervals import paired_difference

DIGITS: Final = 4
"""Decimals of percentages and points: a manifest holds no noise of the last bit."""


def check_classes(scores: Array, labels: npt.NDArray[np.int64]) -> None:
    """Check that labels are classes of a classifier's scores.

    Args:
        scores: the model's first output.
        labels: [N].

    Raises:
        LabelsError: the scores are not [N, classes], or a label is not one of the classes.
    """
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise LabelsError(
            f"top-1 accuracy needs scores of shape [samples, classes] as the model's first output, "
            f"found {list(scores.shape)}"
        )
    classes = scores.shape[1]
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise LabelsError(
            f"labels must be 0 to {classes - 1}, found {int(labels[wrong[0]])} in sample {int(wrong[0])} "
            f"({wrong.size} out of range)"
        )


def compare(fp32: Array, quantized: Array, labels: npt.NDArray[np.int64], dataset_sha256: str) -> Quality:
    """Compare the decisions of two classifiers.

    Args:
        fp32: scores [N, classes].
        quantized: scores [N, classes].
        labels: the right classes, [N].
        dataset_sha256: names samples and labels.

    Raises:
        LabelsError: labels do not fit the scores.
    """
    check_classes(fp32, labels)
    first, second = fp32.argmax(axis=1), quantized.argmax(axis=1)
    first_right, second_right = first == labels, second == labels
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    interval = paired_difference(only_first, only_second, len(labels))
    return Quality(
        metric="top1_percent",
        dataset_sha256=dataset_sha256,
        samples=len(labels),
        fp32=_percent(first_right),
        quantized=_percent(second_right),
        drop_points=round(100 * (only_first - only_second) / len(labels), DIGITS),
        drop_ci95_points=interval.model_copy(
            update={"low": round(interval.low, DIGITS), "high": round(interval.high, DIGITS)}
        ),
        agreement_percent=_percent(first == second),
    )


def _percent(hits: npt.NDArray[np.bool_]) -> float:
    return round(100 * float(hits.mean()), DIGITS)
