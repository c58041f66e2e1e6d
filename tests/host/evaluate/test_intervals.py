"""Confidence intervals hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.intervals import bootstrap_rounds, bootstrap_samples, paired_difference, share


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int]:
    samples = draw(st.integers(1, 5000))
    first = draw(st.integers(0, samples))
    return first, draw(st.integers(0, samples - first)), samples


@given(tables())
def test_the_interval_holds_the_estimate(table: tuple[int, int, int]) -> None:
    first, second, samples = table
    interval = paired_difference(first, second, samples)
    assert -100 <= interval.low <= 100 * (first - second) / samples <= interval.high <= 100


@given(tables())
def test_swapping_the_models_mirrors_it(table: tuple[int, int, int]) -> None:
    first, second, samples = table
    one, other = paired_difference(first, second, samples), paired_difference(second, first, samples)
    assert one.low == pytest.approx(-other.high)
    assert one.high == pytest.approx(-other.low)


@given(tables())
def test_more_samples_narrow_it(table: tuple[int, int, int]) -> None:
    first, second, samples = table
    narrow, wide = (paired_difference(first * k, second * k, samples * k) for k in (10, 1))
    assert narrow.high - narrow.low < wide.high - wide.low


def test_a_worked_figure() -> None:
    """(1 + 1) / 102 - (12 + 1) / 102, give or take 1.96 sqrt((15 / 102 - (11 / 102)^2) / 102)."""
    interval = paired_difference(1, 12, 100)
    assert interval.low == pytest.approx(-17.93, abs=0.01)
    assert interval.high == pytest.approx(-3.64, abs=0.01)


def test_two_models_that_always_decide_alike_may_still_differ() -> None:
    """Nothing seen in 2,000 samples leaves room for about a seventh of a point."""
    interval = paired_difference(0, 0, 2000)
    assert -0.15 < interval.low < 0 < interval.high < 0.15


@pytest.mark.parametrize(
    ("first", "second", "samples"), [(0.02, 0.01, 200), (0.05, 0.05, 50), (0.003, 0.0, 500)]
)
def test_nineteen_of_twenty_intervals_hold_the_truth(first: float, second: float, samples: int) -> None:
    """Coverage by simulation: near 95 %, also for few and lopsided disagreements."""
    stream = np.random.default_rng(1)
    draws = stream.multinomial(samples, [first, second, 1 - first - second], size=4000)
    intervals = [paired_difference(int(a), int(b), samples) for a, b, _ in draws]
    held = [interval.low <= 100 * (first - second) <= interval.high for interval in intervals]
    assert np.mean(held) > 0.93


def test_bootstrap_draws_pairs_whole() -> None:
    """Pairs that always differ by the same have an interval of one point, however both drift."""
    drift = np.random.default_rng(0).uniform(1, 100, (5, 10))
    rounds = np.stack([drift, 2 * drift], axis=2)
    interval = bootstrap_rounds(rounds, lambda drawn: np.mean(drawn[..., 1] / drawn[..., 0], axis=-1))
    assert [interval.low, interval.high] == pytest.approx([2, 2])


def test_bootstrap_draws_rounds_whole() -> None:
    """Many observations in few rounds that differ are few observations, not many."""
    rounds = np.repeat(np.array([1.0, 2.0, 3.0, 4.0]), 1000).reshape(4, 1000, 1)
    interval = bootstrap_rounds(rounds, lambda drawn: drawn[..., 0].mean(axis=-1))
    assert interval.low < 1.8
    assert interval.high > 3.2


def test_bootstrap_is_reproducible() -> None:
    rounds = np.random.default_rng(0).normal(size=(8, 20, 2))
    first, second = (bootstrap_rounds(rounds, lambda drawn: drawn[..., 0].mean(axis=-1)) for _ in range(2))
    assert first == second
    assert first.low < rounds[..., 0].mean() < first.high


@given(st.integers(1, 500), st.floats(0, 1))
def test_a_share_lies_in_its_interval(samples: int, part: float) -> None:
    hits = round(part * samples)
    interval = share(hits, samples)
    assert 0 <= interval.low <= 100 * hits / samples + 1e-9
    assert 100 * hits / samples - 1e-9 <= interval.high <= 100


def test_all_right_is_not_surely_all_right() -> None:
    """Wilson's interval of 100 of 100, from a table."""
    assert share(100, 100).low == pytest.approx(96.30, abs=0.01)


def test_bootstrap_over_samples_is_near_the_normal_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    interval = bootstrap_samples(400, lambda counts: counts @ values / 400)
    half = 1.96 * values.std() / 20
    assert [interval.low, interval.high] == pytest.approx(
        [values.mean() - half, values.mean() + half], abs=0.03
    )


def test_bootstrap_over_samples_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by drawing in parts, which changes nothing."""
    values = np.random.default_rng(0).normal(size=50)
    whole = bootstrap_samples(50, lambda counts: counts @ values)
    monkeypatch.setattr("packhorse_host.evaluate.intervals.RESAMPLED_MAX", 333)
    assert bootstrap_samples(50, lambda counts: counts @ values) == whole


def test_resamples_without_a_score_do_not_count() -> None:
    """And what was observed is inside, even where no resample has a score."""

    def at_first(counts: Array) -> Array:
        return np.where((counts == 1).all(axis=1), 3.0, np.nan)

    interval = bootstrap_samples(20, at_first)
    assert (interval.low, interval.high) == (3.0, 3.0)
