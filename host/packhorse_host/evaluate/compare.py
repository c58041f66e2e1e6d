"""The float model and a quantized one on the same samples, by any metric. Pure: arrays in, figures out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from packhorse_agent.contract.manifest import Interval, Quality
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_host.evaluate.errors import OutputsError, OwnMetricError
from packhorse_host.evaluate.intervals import bootstrap_samples, paired_difference, share
from packhorse_host.evaluate.metrics.base import (
    Decides,
    Floats,
    Metric,
    ShareMetric,
    Truth,
    WeightedMetric,
)

DIGITS: Final = 4
"""Decimals of scores and points: a manifest holds no noise of the last bit."""


def compare(metric: Metric, fp32: Tensors, quantized: Tensors, truth: Truth, dataset_sha256: str) -> Quality:
    """Compare two models by a metric.

    The interval of the drop is that of Bonett and Price for a share of samples (`paired_difference`), else a
    paired bootstrap over samples. Outputs that are the same to the last bit lose nothing, surely.

    Args:
        metric: see `packhorse_host.evaluate.metrics.registry.load_metric`.
        fp32: the float model's outputs, by name, in its order; the first axis counts samples.
        quantized: the other model's outputs.
        truth: of the same samples.
        dataset_sha256: names samples and truth.

    Raises:
        OutputsError: outputs do not suit the metric, or hold NaN.
        LabelsError: the truth is missing or does not suit the metric.
        OwnMetricError: a metric that is not ours gives no finite statistics.
    """
    whole = truth.beside(fp32)
    statistics = [_statistics(metric, outputs, whole, who) for who, outputs in _both(fp32, quantized)]
    first, second = (_score(metric, each) for each in statistics)
    sign = 1 if metric.higher_is_better else -1
    same = fp32.keys() == quantized.keys() and all(
        np.array_equal(array, quantized[name]) for name, array in fp32.items()
    )
    interval = Interval(low=0.0, high=0.0) if same else _interval(metric, statistics, sign)
    return Quality(
        metric=metric.name,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        dataset_sha256=dataset_sha256,
        samples=truth.count,
        fp32=round(first, DIGITS),
        quantized=round(second, DIGITS),
        drop_points=round(sign * (first - second), DIGITS),
        drop_ci95_points=_rounded(interval),
        agreement_percent=_agreement(metric, fp32, quantized),
    )


@dataclass(frozen=True)
class Score:
    """How good one model is."""

    metric: str
    unit: str
    value: float
    ci95: Interval
    samples: int


def score(metric: Metric, outputs: Tensors, truth: Truth) -> Score:
    """Score one model by a metric, with an interval: Wilson's for a share of samples, else a bootstrap.

    Raises:
        OutputsError, LabelsError, OwnMetricError: as `compare`; also when the metric compares with FP32.
    """
    statistics = _statistics(metric, outputs, truth, "the model")
    value = _score(metric, statistics)
    if isinstance(metric, ShareMetric):
        interval = share(int(statistics.sum()), truth.count)
    else:
        interval = bootstrap_samples(truth.count, lambda counts: _resampled(metric, statistics, counts))
    return Score(metric.name, metric.unit, round(value, DIGITS), _rounded(interval), truth.count)


def _rounded(interval: Interval) -> Interval:
    return Interval(low=round(interval.low, DIGITS), high=round(interval.high, DIGITS))


def _both(fp32: Tensors, quantized: Tensors) -> tuple[tuple[str, Tensors], tuple[str, Tensors]]:
    return ("the float model", fp32), ("the quantized model", quantized)


def _statistics(metric: Metric, outputs: Tensors, truth: Truth, who: str) -> Floats:
    for name, array in outputs.items():
        _check_output(name, array, truth.count, who)
    statistics = np.asarray(metric.per_sample(outputs, truth))
    if statistics.ndim == 0 or len(statistics) != truth.count or statistics.dtype.kind not in "fiub":
        raise OwnMetricError(
            f"{metric.name}: per_sample must give numbers whose first axis counts the {truth.count} samples, "
            f"found {statistics.dtype} {list(statistics.shape)}"
        )
    statistics = statistics.astype(np.float64)
    finite = np.isfinite(statistics).reshape(truth.count, -1).all(axis=1)
    if not finite.all():
        raise OutputsError(
            f"{metric.name}: {who} has no finite statistics on {int((~finite).sum())} of {truth.count} "
            f"samples, first on sample {int(np.argmin(finite))}"
        )
    return statistics


def _check_output(name: str, array: Array, count: int, who: str) -> None:
    if array.shape[:1] != (count,):
        raise OutputsError(f"{who}: output `{name}` has shape {list(array.shape)} for {count} samples")
    if array.dtype.kind == "f" and np.isnan(array).any():
        first = int(np.argmax(np.isnan(array).reshape(count, -1).any(axis=1)))
        raise OutputsError(f"{who} gives NaN in output `{name}`, first in sample {first}")


def _score(metric: Metric, statistics: Floats) -> float:
    score = metric.aggregate(statistics)
    if not isinstance(score, (int, float, np.floating, np.integer)) or not np.isfinite(score):
        raise OwnMetricError(f"{metric.name}: aggregate must give one finite number, found {score!r:.80}")
    return float(score)


def _interval(metric: Metric, statistics: list[Floats], sign: int) -> Interval:
    first, second = statistics
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


def _agreement(metric: Metric, fp32: Tensors, quantized: Tensors) -> float | None:
    if not isinstance(metric, Decides):
        return None
    alike = np.asarray(metric.decisions(fp32)) == np.asarray(metric.decisions(quantized))
    return round(100 * float(np.mean(alike)), DIGITS)
