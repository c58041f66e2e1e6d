"""Samples from a Python iterable."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.errors import DataError, DataMismatchError
from packhorse_host.evaluate.samples import ArraySamples
from packhorse_host.evaluate.sources.iterable import from_iterable

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 3))
IDS = TensorSpec(name="ids", datatype="INT64", shape=(-1, -1))


def given_once(count: int) -> Iterator[dict[str, Array]]:
    for index in range(count):
        yield {"x": np.full(3, index, np.float32), "ids": np.arange(index, index + 2)}


def held(count: int) -> ArraySamples:
    rows = list(given_once(count))
    return ArraySamples({name: np.stack([row[name] for row in rows]) for name in ("x", "ids")})


def test_what_passes_once_can_be_asked_for_again() -> None:
    """Batches, samples by index and the digest are those of memory."""
    samples, expected = from_iterable(given_once(11), [X, IDS]), held(11)
    assert samples.count == 11
    assert samples.sha256 == expected.sha256
    for _ in range(2):
        for one, two in zip(samples.batches(4), expected.batches(4), strict=True):
            np.testing.assert_array_equal(one["x"], two["x"])
            np.testing.assert_array_equal(one["ids"], two["ids"])
    np.testing.assert_array_equal(samples.take([10, 0, 0]).arrays["x"][:, 0], [10, 0, 0])


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 4096))
    peaks = []
    for count in (64, 1024):
        tracemalloc.start()
        samples = from_iterable(({"x": np.ones(4096, np.float32)} for _ in range(count)), [spec])
        assert samples.sha256
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.25 * peaks[0]


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"x": np.zeros(3, np.float32)}, "expected .*ids.*found"),
        ({"x": np.zeros(3), "ids": np.zeros(2, np.int64)}, "sample 1: `x` must be float32, found float64"),
        ({"x": np.zeros(4, np.float32), "ids": np.zeros(2, np.int64)}, r"must be \[samples, 3\]"),
        ({"x": np.zeros(3, np.float32), "ids": np.zeros(5, np.int64)}, r"has shape \[5\], \[2\] before"),
    ],
)
def test_samples_that_do_not_fit(sample: dict[str, Any], words: str) -> None:
    with pytest.raises(DataMismatchError, match=words):
        from_iterable([*given_once(1), sample], [X, IDS])


def test_numbers_that_are_not_finite() -> None:
    with pytest.raises(DataError, match="the iterable: sample 0: `x` holds NaN"):
        from_iterable([{"x": np.array([0, np.nan, 0], np.float32)}], [X])


def test_nothing_at_all() -> None:
    with pytest.raises(DataError, match="holds no sample"):
        from_iterable([], [X])
