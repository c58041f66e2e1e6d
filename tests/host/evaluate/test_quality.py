"""Scores of two models on the same samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.errors import LabelsError
from packhorse_host.evaluate.quality import compare

DIGEST = "0" * 64


def scores(*decisions: int) -> Array:
    """Class scores, 3 classes, that decide as told."""
    return np.eye(3, dtype=np.float32)[list(decisions)]


def labels(*classes: int) -> Array:
    return np.array(classes, np.int64)


def test_a_worked_example() -> None:
    """FP32 right on 3 of 4, quantized on 2, alike on 2."""
    quality = compare(scores(0, 1, 2, 0), scores(0, 1, 0, 2), labels(0, 1, 2, 1), DIGEST)
    assert (quality.fp32, quality.quantized, quality.drop_points) == (75.0, 50.0, 25.0)
    assert (quality.agreement_percent, quality.samples) == (50.0, 4)
    assert quality.drop_ci95_points.low < 25 < quality.drop_ci95_points.high


def test_a_better_quantized_model_has_a_negative_drop() -> None:
    assert compare(scores(0, 0), scores(0, 1), labels(0, 1), DIGEST).drop_points == -50.0


decisions = arrays.arrays(np.int64, 20, elements=st.integers(0, 2))


@given(decisions, decisions, decisions)
def test_figures_belong_together(fp32: Array, quantized: Array, right: Array) -> None:
    """The drop is the difference, and no larger than the disagreement."""
    quality = compare(scores(*fp32), scores(*quantized), right, DIGEST)
    assert quality.drop_points == pytest.approx(quality.fp32 - quality.quantized)
    assert abs(quality.drop_points) <= 100 - quality.agreement_percent + 1e-9
    assert quality.drop_ci95_points.low <= quality.drop_points <= quality.drop_ci95_points.high


@pytest.mark.parametrize("wrong", [-1, 3, 255])
def test_labels_that_are_no_class(wrong: int) -> None:
    with pytest.raises(LabelsError, match=f"0 to 2, found {wrong} in sample 1") as caught:
        compare(scores(0, 1), scores(0, 1), labels(0, wrong), DIGEST)
    assert caught.value.exit_code is ExitCode.BAD_INPUT


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 8)])
def test_outputs_that_are_no_class_scores(shape: tuple[int, ...]) -> None:
    output = np.zeros(shape, np.float32)
    with pytest.raises(LabelsError, match=r"\[samples, classes\]"):
        compare(output, output, labels(0, 0, 0, 0), DIGEST)
