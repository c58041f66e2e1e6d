"""Observing is the same whatever way the values come, and ranges keep their laws."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from packhorse_agent.contract.recipe import CalibrationMethod
from packhorse_host.quantize.calibrate.methods import choose_range, quantization_error
from packhorse_host.quantize.calibrate.observer import (
    BINS,
    HALF,
    NOTHING,
    NotFiniteError,
    Observation,
    Range,
    extremes,
    merge,
    mirrored,
    observe,
)

Floats = npt.NDArray[np.float32]
METHODS = list(CalibrationMethod)

values = hnp.arrays(
    np.float32,
    st.integers(1, 200),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
"""Any finite numbers: denormal ones and the largest."""

usual = hnp.arrays(
    np.float32,
    st.integers(1, 50),
    elements=st.floats(-(2.0**60), 2.0**60, width=32).filter(lambda value: not 0 < abs(value) < 2.0**-60),
)
"""Numbers of which none is nothing beside another."""

bells = st.builds(
    lambda seed, scale, shift, count: (
        np.random.default_rng(seed).standard_normal(count) * 10.0**scale + shift
    ).astype(np.float32),
    st.integers(0, 2**32),
    st.integers(-3, 3),
    st.sampled_from([0.0, 1.0, -50.0]),
    st.integers(1, 3000),
)
"""What activations look like."""


def same(first: Observation, second: Observation) -> bool:
    facts = [(seen.low, seen.high, seen.exponent) for seen in (first, second)]
    return facts[0] == facts[1] and bool((first.counts == second.counts).all())


@given(usual, usual)
def test_merged_is_observed_together(first: Floats, second: Floats) -> None:
    """To the last count, although the parts had bins of other widths."""
    together = observe(np.concatenate([first, second]))
    assert same(merge(observe(first), observe(second)), together)


@given(usual)
def test_order_does_not_matter(array: Floats) -> None:
    parts = [observe(array[index : index + 1]) for index in np.random.default_rng(1).permutation(len(array))]
    one_by_one = NOTHING
    for part in parts:
        one_by_one = merge(one_by_one, part)
    assert same(one_by_one, observe(array))


@given(values)
def test_nothing_changes_nothing(array: Floats) -> None:
    assert same(merge(NOTHING, observe(array)), observe(array))
    assert same(merge(observe(array), NOTHING), observe(array))


@given(values)
def test_every_value_is_counted_where_it_lies(array: Floats) -> None:
    seen = observe(array)
    assert seen.counts.sum() == array.size
    assert seen.extremes == Range(float(array.min()), float(array.max()))
    indexes = np.flatnonzero(seen.counts) - HALF
    lowest, highest = indexes[0] * seen.bin_width, (indexes[-1] + 1) * seen.bin_width
    assert lowest <= seen.low or seen.low == 0
    assert seen.high < highest


@given(bells)
def test_the_bins_are_fine_enough(array: Floats) -> None:
    """At least a quarter of the bins lie between zero and the largest magnitude."""
    seen = observe(array)
    assert max(abs(seen.low), abs(seen.high)) / seen.bin_width >= BINS / 4


@pytest.mark.parametrize("method", METHODS)
@given(array=bells)
def test_ranges_lie_within_the_extremes(method: CalibrationMethod, array: Floats) -> None:
    seen = observe(array)
    found = choose_range(seen, method, 99.0)
    assert seen.low <= found.low <= found.high <= seen.high


@pytest.mark.parametrize("method", METHODS)
@given(array=values)
def test_any_finite_values_give_a_range(method: CalibrationMethod, array: Floats) -> None:
    """Denormal numbers and the largest floats too."""
    seen = observe(array)
    found = choose_range(seen, method, 99.99)
    assert seen.low <= found.low <= found.high <= seen.high


@given(bells)
def test_all_of_the_values_is_minmax(array: Floats) -> None:
    seen = observe(array)
    assert choose_range(seen, CalibrationMethod.PERCENTILE, 100.0) == seen.extremes


@given(bells, st.floats(50.5, 100))
def test_a_percentile_holds_its_share(array: Floats, percentile: float) -> None:
    """And not more than one bin of the histogram beyond it."""
    seen = observe(array)
    found = choose_range(seen, CalibrationMethod.PERCENTILE, percentile)
    threshold = max(abs(found.low), abs(found.high))
    assert (np.abs(array) <= threshold).mean() >= percentile / 100 - 1e-9
    smaller = threshold - 2 * seen.bin_width
    assert smaller < 0 or (np.abs(array) <= smaller).mean() < percentile / 100 + 1e-9


@given(bells, st.sampled_from([16, 256, 65536]))
def test_least_squares_is_never_worse_than_minmax(array: Floats, levels: int) -> None:
    seen = observe(array)
    chosen = choose_range(seen, CalibrationMethod.MSE, levels=levels)
    assert quantization_error(seen, chosen, levels) <= quantization_error(seen, seen.extremes, levels)


@pytest.mark.parametrize(
    ("method", "share"),
    [
        (CalibrationMethod.PERCENTILE, 0.2),
        (CalibrationMethod.ENTROPY, 0.2),
        # A squared error of 100 weighs as much as rounding errors of thousands of values.
        (CalibrationMethod.MSE, 0.95),
    ],
)
def test_one_outlier_among_many_is_cut_off(method: CalibrationMethod, share: float) -> None:
    bell = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    found = choose_range(observe(np.append(bell, np.float32(100))), method, 99.99)
    assert 2 < found.high < 100 * share
    assert -20 < found.low < -2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constant", [0.0, 3.5, -1e-30, 1e30])
def test_a_constant_is_its_own_range(method: CalibrationMethod, constant: float) -> None:
    value = float(np.float32(constant))
    assert choose_range(observe(np.full(50, constant, np.float32)), method, 99.0) == Range(value, value)


@pytest.mark.parametrize("method", METHODS)
def test_the_range_of_nothing_is_zero(method: CalibrationMethod) -> None:
    """A detector that finds no box in any sample, say."""
    assert choose_range(observe(np.zeros((0, 4), np.float32)), method) == Range(0.0, 0.0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, 17, 99])
def test_what_is_not_finite_has_no_range(wrong: float, position: int) -> None:
    array = np.ones(100, np.float32)
    array[position] = wrong
    with pytest.raises(NotFiniteError):
        observe(array)
    with pytest.raises(NotFiniteError):
        extremes(array)


def test_more_precise_types_are_rounded_first() -> None:
    assert same(observe(np.array([0.1, 2.0])), observe(np.array([0.1, 2.0], np.float32)))
    assert same(observe(np.array([0.5, 2.0], np.float16)), observe(np.array([0.5, 2.0], np.float32)))


def test_a_number_too_large_for_single_precision_is_not_finite() -> None:
    with np.errstate(over="ignore"), pytest.raises(NotFiniteError):
        observe(np.array([1e300]))


@given(values)
def test_mirrored_values_are_those_of_both_signs(array: Floats) -> None:
    seen, both = mirrored(observe(array)), observe(np.concatenate([array, -array]))
    assert (seen.low, seen.high, seen.exponent) == (both.low, both.high, both.exponent)
    # A value on the edge of a bin has its mirror image in the next one.
    assert seen.counts.sum() == both.counts.sum()
    assert np.abs(np.cumsum(seen.counts - both.counts)).max() <= len(array)
    assert mirrored(NOTHING) is NOTHING


@pytest.mark.parametrize("method", [CalibrationMethod.PERCENTILE, CalibrationMethod.ENTROPY])
def test_the_range_of_mirrored_values_lies_around_zero(method: CalibrationMethod) -> None:
    relu = np.maximum(np.random.default_rng(0).standard_normal(10_000), 0).astype(np.float32)
    found = choose_range(mirrored(observe(relu)), method, 99.0)
    assert found.low == -found.high
    assert 0 < found.high < relu.max()
