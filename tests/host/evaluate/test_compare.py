"""Two models on the same samples: scores, drop, interval, agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.manifest import Quality
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_host.evaluate.compare import compare
from packhorse_host.evaluate.errors import LabelsError, OutputsError, OwnMetricError
from packhorse_host.evaluate.metrics.base import Floats, Metric, Truth
from packhorse_host.evaluate.metrics.classification import Top1, Top5
from packhorse_host.evaluate.metrics.frames import Auc, FrameAccuracy
from packhorse_host.evaluate.metrics.free import OutputCosine, OutputSqnr

DIGEST = "0" * 64


def scores(*decisions: int) -> Array:
    """Class scores, 3 classes, that decide as told."""
    return np.eye(3, dtype=np.float32)[list(decisions)]


def labels(*classes: int) -> Truth:
    return Truth(len(classes), {"labels": np.array(classes, np.int64)})


def top1(fp32: Array, quantized: Array, truth: Truth) -> Quality:
    return compare(Top1(), {"scores": fp32}, {"scores": quantized}, truth, DIGEST)


def test_a_worked_example() -> None:
    """FP32 right on 3 of 4, quantized on 2, alike on 2."""
    quality = top1(scores(0, 1, 2, 0), scores(0, 1, 0, 2), labels(0, 1, 2, 1))
    assert (quality.fp32, quality.quantized, quality.drop_points) == (75.0, 50.0, 25.0)
    assert (quality.agreement_percent, quality.samples) == (50.0, 4)
    assert quality.drop_ci95_points.low < 25 < quality.drop_ci95_points.high


def test_a_better_quantized_model_has_a_negative_drop() -> None:
    assert top1(scores(0, 0), scores(0, 1), labels(0, 1)).drop_points == -50.0


decisions = arrays.arrays(np.int64, 20, elements=st.integers(0, 2))


@given(decisions, decisions, decisions)
def test_figures_belong_together(fp32: Array, quantized: Array, right: Array) -> None:
    """The drop is the difference, and no larger than the disagreement."""
    quality = top1(scores(*fp32), scores(*quantized), labels(*right))
    assert quality.agreement_percent is not None
    assert quality.drop_points == pytest.approx(quality.fp32 - quality.quantized)
    assert abs(quality.drop_points) <= 100 - quality.agreement_percent + 1e-9
    assert quality.drop_ci95_points.low <= quality.drop_points <= quality.drop_ci95_points.high


@pytest.mark.parametrize("wrong", [-1, 3, 255])
def test_labels_that_are_no_class(wrong: int) -> None:
    with pytest.raises(LabelsError, match=f"0 to 2, found {wrong} in sample 1") as caught:
        top1(scores(0, 1), scores(0, 1), labels(0, wrong))
    assert caught.value.exit_code is ExitCode.BAD_INPUT


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 8)])
def test_outputs_that_are_no_class_scores(shape: tuple[int, ...]) -> None:
    output = np.zeros(shape, np.float32)
    with pytest.raises(OutputsError, match=r"\[samples, classes\]"):
        top1(output, output, labels(0, 0, 0, 0))


def test_an_output_that_holds_nan_is_named_with_its_model() -> None:
    broken = scores(0, 1, 2)
    broken[1, 0] = np.nan
    with pytest.raises(OutputsError, match=r"the quantized model gives NaN in output `scores`.*sample 1"):
        top1(scores(0, 1, 2), broken, labels(0, 1, 2))


def test_outputs_for_another_number_of_samples() -> None:
    with pytest.raises(OutputsError, match="outputs for 2 of 3 samples"):
        top1(scores(0, 1), scores(0, 1), labels(0, 1, 2))


METRICS: Sequence[Metric] = (Top1(), Top5(), FrameAccuracy(), Auc(), OutputSqnr(), OutputCosine())
COUNT = 24


def _case(metric: Metric, seed: int) -> tuple[Tensors, Tensors, Truth]:
    """Random outputs of both models that suit the metric."""
    stream = np.random.default_rng(seed)
    width = 7 if metric.name.startswith("top") else 1
    shape = (COUNT, width)
    fp32 = stream.normal(size=shape).astype(np.float32)
    quantized = fp32 + stream.normal(scale=0.5, size=shape).astype(np.float32)
    classes = stream.integers(0, max(2, width), COUNT)
    classes[:2] = 0, 1
    return {"y": fp32}, {"y": quantized}, Truth(COUNT, {"labels": classes})


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("seed", range(3))
def test_identical_outputs_lose_nothing(metric: Metric, seed: int) -> None:
    fp32, _, truth = _case(metric, seed)
    quality = compare(metric, fp32, {"y": fp32["y"].copy()}, truth, DIGEST)
    interval = quality.drop_ci95_points
    assert (quality.drop_points, interval.low, interval.high) == (0, 0, 0)
    assert quality.agreement_percent in (None, 100)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("seed", range(5))
def test_the_interval_holds_the_drop(metric: Metric, seed: int) -> None:
    quality = compare(metric, *_case(metric, seed), DIGEST)
    assert quality.drop_ci95_points.low <= quality.drop_points <= quality.drop_ci95_points.high
    assert quality.drop_points == pytest.approx(quality.fp32 - quality.quantized, abs=2e-4)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
@given(order=st.permutations(range(COUNT)))
@settings(max_examples=10)
def test_the_order_of_samples_changes_nothing(metric: Metric, order: list[int]) -> None:
    fp32, quantized, truth = _case(metric, 1)
    moved = ({"y": fp32["y"][order]}, {"y": quantized["y"][order]}, truth.take(order))
    first = metric.aggregate(metric.per_sample(quantized, truth.beside(fp32)))
    second = metric.aggregate(metric.per_sample(moved[1], moved[2].beside(moved[0])))
    assert first == pytest.approx(second, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_two_runs_give_the_same_interval(metric: Metric) -> None:
    assert compare(metric, *_case(metric, 2), DIGEST) == compare(metric, *_case(metric, 2), DIGEST)


@dataclass(frozen=True)
class Errors:
    """A metric that is not ours: the mean distance to a truth, fewer is better, in pixels."""

    statistics: Any = None
    score: Any = None
    name: str = "own_package.poses:Errors"
    unit: str = "px"
    higher_is_better: bool = False

    def per_sample(self, outputs: Tensors, truth: Truth) -> Floats:
        if self.statistics is not None:
            return self.statistics  # type: ignore[no-any-return]
        distances: Floats = np.abs(outputs["y"][:, 0] - truth.arrays["where"]).astype(np.float64)
        return distances

    def aggregate(self, statistics: Floats) -> float:
        return float(statistics.mean()) if self.score is None else self.score


def test_a_metric_that_is_not_ours() -> None:
    """Resampled by its own aggregate; where fewer is better, more is a drop."""
    truth = Truth(3, {"where": np.zeros(3)})
    fp32, quantized = {"y": np.array([[1.0], [2.0], [3.0]])}, {"y": np.array([[2.0], [3.0], [5.0]])}
    quality = compare(Errors(), fp32, quantized, truth, DIGEST)
    assert (quality.metric, quality.unit, quality.higher_is_better) == (
        "own_package.poses:Errors",
        "px",
        False,
    )
    assert (quality.fp32, quality.quantized, quality.drop_points) == (2.0, 3.3333, 1.3333)
    assert (quality.drop_ci95_points.low, quality.drop_ci95_points.high) == (1.0, 2.0)
    assert quality.agreement_percent is None


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (Errors(statistics=np.zeros(2)), r"counts the 3 samples, found float64 \[2\]"),
        (Errors(statistics=np.float64(1)), r"found float64 \[\]"),
        (Errors(statistics=np.array(["a", "b", "c"])), r"must give numbers"),
        (Errors(score=float("nan")), "one finite number, found nan"),
        (Errors(score="good"), "one finite number, found 'good'"),
        (Errors(score=[1.0, 2.0]), "one finite number"),
    ],
)
def test_a_metric_that_does_not_keep_to_the_protocol(metric: Errors, words: str) -> None:
    outputs = {"y": np.ones((3, 1))}
    with pytest.raises(OwnMetricError, match=words):
        compare(metric, outputs, outputs, Truth(3, {"where": np.zeros(3)}), DIGEST)


def test_statistics_that_are_not_finite() -> None:
    outputs = {"y": np.ones((3, 1))}
    metric = Errors(statistics=np.array([0.0, np.inf, 0.0]))
    with pytest.raises(OutputsError, match="1 of 3 samples, first on sample 1"):
        compare(metric, outputs, outputs, Truth(3), DIGEST)
