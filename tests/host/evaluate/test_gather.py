"""What a metric keeps of outputs: alike, whether they come at once or batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from packhorse_agent.runtime.datatypes import Tensors
from packhorse_host.evaluate.compare import compare, compare_gathered, score
from packhorse_host.evaluate.errors import LabelsError, OutputsError
from packhorse_host.evaluate.gather import Gathered, Gatherer
from packhorse_host.evaluate.metrics.base import Floats, Metric, Truth
from packhorse_host.evaluate.metrics.classification import Top1, Top5
from packhorse_host.evaluate.metrics.detection import Ap50, Ap75
from packhorse_host.evaluate.metrics.embeddings import EmbeddingCosine, LinearProbe
from packhorse_host.evaluate.metrics.frames import Auc, FrameAccuracy
from packhorse_host.evaluate.metrics.free import OutputCosine, OutputSqnr
from packhorse_host.evaluate.metrics.text import Alphabet, CharacterErrors, ExactMatch
from tests.host.evaluate.metrics.test_detection import random_case

COUNT = 22
DIGEST = "0" * 64
ABC = Alphabet(("a", "b", "c"))


@dataclass(frozen=True)
class Spread:
    """A metric that is not ours: statistics depend on all samples together."""

    name: str = "own_package:Spread"
    unit: str = "px"
    higher_is_better: bool = True

    def per_sample(self, outputs: Tensors, truth: Truth) -> Floats:
        values = outputs["y"].reshape(len(outputs["y"]), -1)[:, 0].astype(np.float64)
        spread: Floats = values - values.mean()
        return spread

    def aggregate(self, statistics: Floats) -> float:
        return float(np.square(statistics).mean())


Case = tuple[Tensors, Tensors, Truth]


def tables(width: int, *axes: int) -> Case:
    stream = np.random.default_rng(7)
    fp32 = stream.normal(size=(COUNT, *axes, width)).astype(np.float32)
    quantized = fp32 + stream.normal(scale=0.6, size=fp32.shape).astype(np.float32)
    labels = np.arange(COUNT) // 2 % 2
    texts = np.array([("abc" * 3)[index % 3 : index % 5] for index in range(COUNT)])
    return {"y": fp32}, {"y": quantized}, Truth(COUNT, {"labels": labels, "texts": texts})


def boxes() -> Case:
    outputs, truth = random_case(1, images=COUNT)
    stream = np.random.default_rng(2)
    moved = outputs["boxes"] + stream.normal(scale=2, size=outputs["boxes"].shape).astype(np.float32)
    return outputs, {**outputs, "boxes": moved}, truth


CASES: list[tuple[Metric, Callable[[], Case]]] = [
    (Top1(), lambda: tables(4)),
    (Top5(), lambda: tables(8)),
    (Ap50(), boxes),
    (Ap75(), boxes),
    (ExactMatch(ABC), lambda: tables(4, 3)),
    (CharacterErrors(ABC), lambda: tables(4, 3)),
    (EmbeddingCosine(), lambda: tables(16)),
    (LinearProbe(), lambda: tables(4)),
    (FrameAccuracy(), lambda: tables(1)),
    (Auc(), lambda: tables(1)),
    (OutputSqnr(), lambda: tables(3)),
    (OutputCosine(), lambda: tables(3)),
    (Spread(), lambda: tables(3)),
]


def by_batch(metric: Metric, outputs: Tensors, reference: Tensors, truth: Truth, size: int) -> Gathered:
    gatherer = Gatherer(metric, truth, "the model")
    for start in range(0, truth.count, size):
        rows = slice(start, start + size)
        gatherer.add(
            {name: array[rows] for name, array in outputs.items()},
            {name: array[rows] for name, array in reference.items()},
        )
    return gatherer.done()


@pytest.mark.parametrize(("metric", "case"), CASES, ids=lambda each: getattr(each, "name", ""))
@pytest.mark.parametrize("size", [1, 5, COUNT])
def test_batches_say_what_the_whole_says(metric: Metric, case: Callable[[], Case], size: int) -> None:
    """Score, drop, interval and agreement; also where a batch has one kind of label, or no true box."""
    fp32, quantized, truth = case()
    first, second = (by_batch(metric, each, fp32, truth, size) for each in (fp32, quantized))
    quality = compare_gathered(metric, first, second, DIGEST)
    assert quality == compare(metric, fp32, quantized, truth, DIGEST)
    assert quality.drop_ci95_points.low <= quality.drop_points <= quality.drop_ci95_points.high


@pytest.mark.parametrize(("metric", "case"), CASES, ids=lambda each: getattr(each, "name", ""))
def test_identical_outputs_lose_nothing(metric: Metric, case: Callable[[], Case]) -> None:
    fp32, _, truth = case()
    quality = compare(metric, fp32, {name: array.copy() for name, array in fp32.items()}, truth, DIGEST)
    interval = quality.drop_ci95_points
    assert (quality.drop_points, interval.low, interval.high) == (0, 0, 0)
    assert quality.agreement_percent in (None, 100)


@pytest.mark.parametrize(("metric", "case"), CASES, ids=lambda each: getattr(each, "name", ""))
def test_a_score_lies_in_its_interval(metric: Metric, case: Callable[[], Case]) -> None:
    fp32, quantized, truth = case()
    found = score(metric, by_batch(metric, quantized, fp32, truth, COUNT))
    assert found.ci95.low <= found.value <= found.ci95.high
    assert (found.metric, found.unit, found.samples) == (metric.name, metric.unit, COUNT)


def test_errors_name_the_sample_of_the_data_set() -> None:
    """Not that of the batch."""
    fp32, _, _ = tables(4)
    labels = np.zeros(COUNT, np.int64)
    labels[13] = 4
    with pytest.raises(LabelsError, match="found 4 in sample 13"):
        by_batch(Top1(), fp32, fp32, Truth(COUNT, {"labels": labels}), 5)
    fp32["y"][17, 2] = np.nan
    with pytest.raises(OutputsError, match="NaN in output `y`, first in sample 17"):
        by_batch(Top1(), fp32, fp32, Truth(COUNT, {"labels": np.zeros(COUNT, np.int64)}), 5)


def test_outputs_that_are_too_many_or_too_few() -> None:
    gatherer = Gatherer(Top1(), Truth(3, {"labels": np.zeros(3, int)}), "the model")
    gatherer.add({"y": np.zeros((2, 4))}, None)
    with pytest.raises(OutputsError, match="outputs for 2 of 3 samples"):
        gatherer.done()
    with pytest.raises(OutputsError, match=r"shape \[2, 4\] for 1 samples"):
        gatherer.add({"y": np.zeros((2, 4))}, None)


def test_outputs_that_count_differently() -> None:
    gatherer = Gatherer(Top1(), Truth(3, {"labels": np.zeros(3, int)}), "the model")
    with pytest.raises(OutputsError, match=r"output `z` has shape \[2\]"):
        gatherer.add({"y": np.zeros((3, 4)), "z": np.zeros(2)}, None)
