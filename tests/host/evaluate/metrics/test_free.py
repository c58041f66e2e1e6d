"""Outputs without a truth: noise against the float model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_agent.runtime.golden import worst_sqnr_db
from packhorse_host.evaluate.errors import OutputsError
from packhorse_host.evaluate.metrics.base import Truth
from packhorse_host.evaluate.metrics.free import (
    SQNR_MAX_DB,
    SQNR_MIN_DB,
    FidelityTally,
    OutputCosine,
    OutputSqnr,
)

values = arrays.arrays(np.float32, (4, 3), elements=st.floats(-100, 100, width=32))


def scored(metric: OutputSqnr | OutputCosine, reference: Tensors, actual: Tensors) -> float:
    truth = Truth(len(next(iter(reference.values())))).beside(reference)
    return metric.aggregate(metric.per_sample(actual, truth))


@given(values, values)
def test_sqnr_is_the_one_of_the_golden_vectors(reference: Array, actual: Array) -> None:
    """Within the bounds of the scale, whose upper end is a model without noise."""
    found = scored(OutputSqnr(), {"y": reference}, {"y": actual})
    known = worst_sqnr_db({"y": reference}, {"y": actual})
    expected = SQNR_MAX_DB if known is None else float(np.clip(known, SQNR_MIN_DB, SQNR_MAX_DB))
    assert found == pytest.approx(expected, abs=1e-6)


@given(values, values)
def test_cosine_is_bounded_and_whole_for_equal_outputs(reference: Array, actual: Array) -> None:
    assert -100 - 1e-9 <= scored(OutputCosine(), {"y": reference}, {"y": actual}) <= 100 + 1e-9
    assert scored(OutputCosine(), {"y": reference}, {"y": reference}) == 100


def test_the_worst_output_is_the_score() -> None:
    reference = {"good": np.full((2, 2), 10.0), "bad": np.full((2, 2), 10.0)}
    actual = {"good": np.full((2, 2), 10.1), "bad": np.array([[10.0, -10.0], [9.0, 1.0]])}
    tally = FidelityTally()
    tally.add(reference, actual)
    figures = {each.output: each for each in tally.outputs()}
    assert figures["good"].sqnr_db == pytest.approx(40)
    assert scored(OutputSqnr(), reference, actual) == pytest.approx(figures["bad"].sqnr_db)
    assert scored(OutputCosine(), reference, actual) == pytest.approx(figures["bad"].cosine_percent)


@pytest.mark.parametrize("actual", [{}, {"y": np.ones((2, 4))}])
def test_outputs_that_are_not_those_of_the_float_model(actual: Tensors) -> None:
    with pytest.raises(OutputsError, match="output `y` is"):
        scored(OutputSqnr(), {"y": np.ones((2, 3))}, actual)


def test_there_must_be_a_float_model() -> None:
    with pytest.raises(OutputsError, match="compares with the float model"):
        OutputSqnr().per_sample({"y": np.ones((2, 3))}, Truth(2))


@given(values, values, st.integers(1, 3))
def test_a_tally_of_parts_is_that_of_the_whole(reference: Array, actual: Array, cut: int) -> None:
    """And equals the score of the only output."""
    tally = FidelityTally()
    for rows in (slice(None, cut), slice(cut, None)):
        tally.add({"y": reference[rows]}, {"y": actual[rows]})
    (figure,) = tally.outputs()
    assert figure.sqnr_db == pytest.approx(scored(OutputSqnr(), {"y": reference}, {"y": actual}))
    assert figure.cosine_percent == pytest.approx(scored(OutputCosine(), {"y": reference}, {"y": actual}))


def test_nothing_tallied() -> None:
    assert FidelityTally().outputs() == ()
