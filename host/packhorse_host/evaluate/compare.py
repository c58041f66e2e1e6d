"""The float model and a quantized one on the same samples, by any metric. Pure: arrays in, figures out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from packhorse_agent.contract.manifest import Interval, Quality
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_host.evaluate.errors import OwnMetricError
from packhorse_host.evaluate.gather import Gathered, gather
from packhorse_host.evaluate.intervals import bootstrap_samples, paired_difference, share
from packhorse_host.evaluate.metrics.base import (
    Floats,
    Metric,
    ShareMetric,
    Truth,
    WeightedMetric,
)

FLOAT_MODEL: Final = "the float model"
QUANTIZED_MODEL: Final = "the quantized model"
DIGITS: Final = 4
"""Decimals of scores and points: a manifest holds no noise of the last bit."""


def compare(metric: Metric, fp32: Tensors, quantized: Tensors, truth: Truth, dataset_sha256: str) -> Quality:
    """Compare two models by a metric; see `compare_gathered`.

    Args:
        metric: see `packhorse_host.evaluate.metrics.registry.load_metric`.
        fp32: the float model's outputs, by name, in its order; the first axis counts samples.
        quantized: the other model's outputs.
        truth: of the same samples.
        dataset_sha256: names samples and truth.

    Raises:
        OutputsError: outputs do not suit the metric, or hold NaN.
        LabelsError: the truth is missing or does not suit the metric.
        OwnMetricError: a metric that is not ours does not keep to the protocol.
    """
    check_truth(metric, truth)
    first = gather(metric, fp32, fp32, truth, FLOAT_MODEL)
    second = gather(metric, quantized, fp32, truth, QUANTIZED_MODEL)
    return compare_gathered(metric, first, second, dataset_sha256)


def compare_gathered(metric: Metric, fp32: Gathered, quantized: Gathered, dataset_sha256: str) -> Quality:
    """Compare two models by what a metric keeps of their outputs on the same samples.

    The interval of the drop is that of Bonett and Price for a share of samples (`paired_difference`), else a
    paired bootstrap over samples. Outputs that are the same to the last bit lose nothing, surely.

    Raises:
        OwnMetricError: a metric that is not ours gives no score.
    """
    first, second = _score(metric, fp32.statistics), _score(metric, quantized.statistics)
    sign = 1 if metric.higher_is_better else -1
    same = fp32.outputs_sha256 == quantized.outputs_sha256
    interval = Interval(low=0.0, high=0.0) if same else _interval(metric, fp32, quantized, sign)
    return Quality(
        metric=metric.name,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        dataset_sha256=dataset_sha256,
        samples=len(fp32.statistics),
        fp32=round(first, DIGITS),
        quantized=round(second, DIGITS),
        drop_points=round(sign * (first - second), DIGITS),
        drop_ci95_points=_rounded(interval),
        agreement_percent=_agreement(fp32.decisions, quantized.decisions),
    )


def check_truth(metric: Metric, truth: Truth) -> None:
    """Check what can be before any model runs.

    Raises:
        LabelsError: the truth is missing or does not suit the metric.
    """
    if isinstance(metric, WeightedMetric):
        metric.check(truth)


@dataclass(frozen=True)
class Score:
    """How good one model is."""

    metric: str
    unit: str
    value: float
    ci95: Interval
    samples: int


def score(metric: Metric, gathered: Gathered) -> Score:
    """Score one model by a metric, with an interval: Wilson's for a share of samples, else a bootstrap.

    Raises:
        OwnMetricError: a metric that is not ours gives no score.
    """
    statistics = gathered.statistics
    value, count = _score(metric, statistics), len(statistics)
    if isinstance(metric, ShareMetric):
        interval = share(int(statistics.sum()), count)
    else:
        interval = bootstrap_samples(count, lambda counts: _resampled(metric, statistics, counts))
    return Score(metric.name, metric.unit, round(value, DIGITS), _rounded(interval), count)


def _rounded(interval: Interval) -> Interval:
    return Interval(low=round(interval.low, DIGITS), high=round(interval.high, DIGITS))


def _score(metric: Metric, statistics: Floats) -> float:
    score = metric.aggregate(statistics)
    if not isinstance(score, (int, float, np.floating, np.integer)) or not np.isfinite(score):
        raise OwnMetricError(f"{metric.name}: aggregate must give one finite number, found {score!r:.80}")
    return float(score)


def _interval(metric: Metric, fp32: Gathered, quantized: Gathered, sign: int) -> Interval:
    first, second = fp32.statistics, quantized.statistics
    if isinstance(metric, ShareMetric):
        only_first, only_second = int((first > second).sum()), int((second > first).sum())
        return paired_difference(only_first, only_second, len(first))

    def drops(counts: Floats) -> Floats:
        return sign * (_resampled(metric, first, counts) - _resampled(metric, second, counts))

    return bootstrap_samples(len(first), drops)


def _resampled(metric: Metric, statistics: Floats, counts: Floats) -> Floats:
    if isinstance(metric, WeightedMetric):
        return metric.resampled(statistics, counts)
    indexes = np.arange(len(statistics))
    rows = (np.repeat(indexes, row.astype(np.int64)) for row in counts)
    return np.array([_score(metric, statistics[row]) for row in rows])


def _agreement(first: Array | None, second: Array | None) -> float | None:
    if first is None or second is None:
        return None
    return round(100 * float(np.mean(first == second)), DIGITS)
