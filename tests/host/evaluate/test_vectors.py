"""Golden vectors and the limits that a device must reach on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.golden import GoldenVectors, Replay, agreement_percent, compare, worst_sqnr_db
from packhorse_host.evaluate.vectors import (
    CANDIDATES,
    FP32_SQNR_MIN_DB,
    VECTORS,
    VECTORS_MIN,
    candidates,
    choose,
    margin_for,
    margins,
    probe_limits,
    synthesized,
    vector_count,
)
from tests.host.float_models import IMAGE

LOGITS = TensorSpec(name="logits", datatype="FP32", shape=(-1, 5))


def noisy(noise: float, seed: int = 0, count: int = VECTORS) -> GoldenVectors:
    """Class scores and the same with noise, [count, 5]."""
    stream = np.random.default_rng(seed)
    fp32 = (3 * stream.standard_normal((count, 5))).astype(np.float32)
    host = (fp32 + noise * stream.standard_normal((count, 5))).astype(np.float32)
    return GoldenVectors({"x": fp32}, {"logits": fp32}, {"logits": host})


@given(st.floats(0.001, 5.0), st.integers(0, 50))
def test_the_host_passes_its_own_probe(noise: float, seed: int) -> None:
    """Whatever the quantization does to the outputs."""
    golden = noisy(noise, seed)
    fp32, host = golden.fp32["logits"], golden.host["logits"]
    sqnr = worst_sqnr_db(golden.fp32, golden.host)
    limits = probe_limits(sqnr, fp32, host, golden.count, classification=True)
    assert compare(golden, Replay(golden.host, [1.0]), limits, [LOGITS]).passed


def test_three_decibels_are_allowed_and_no_more() -> None:
    golden = noisy(0.1)
    fp32, host = golden.fp32["logits"], golden.host["logits"]
    limits = probe_limits(worst_sqnr_db(golden.fp32, golden.host), fp32, host, VECTORS, classification=True)
    for factor, passes in ((1.4, True), (1.43, False)):
        answer = Replay({"logits": (fp32 + factor * (host - fp32)).astype(np.float32)}, [1.0])
        assert compare(golden, answer, limits, [LOGITS]).passed is passes


def test_a_device_that_decides_otherwise_fails() -> None:
    """Two of sixteen sure decisions are one too many, even where the noise is small."""
    golden = noisy(0.01)
    fp32, host = golden.fp32["logits"], golden.host["logits"]
    limits = probe_limits(-50.0, fp32, host, VECTORS, classification=True).model_copy(
        update={"decision_margin": 0.0}
    )
    swapped = host.copy()
    swapped[:2] = -swapped[:2]
    answer = Replay({"logits": swapped}, [1.0])
    assert not compare(golden, answer, limits, [LOGITS]).passed


def test_a_float_model_has_a_limit_of_its_own() -> None:
    """There is no noise to go by."""
    golden = noisy(0.0)
    fp32 = golden.fp32["logits"]
    limits = probe_limits(None, fp32, fp32, VECTORS, classification=True)
    assert limits.sqnr_min_db == FP32_SQNR_MIN_DB
    assert limits.decision_margin > 0


def test_free_outputs_have_no_decision() -> None:
    golden = noisy(0.1)
    limits = probe_limits(30.0, golden.fp32["logits"], golden.host["logits"], 16, classification=False)
    assert (limits.classification, limits.agreement_min_percent, limits.decision_margin) == (False, 0.0, 0.0)


def test_noise_at_the_margin_seldom_flips() -> None:
    """Noise of just the power that is allowed, on 100,000 decisions."""
    stream = np.random.default_rng(1)
    fp32 = 3 * stream.standard_normal((100_000, 5))
    sigma = float(np.sqrt(np.mean(fp32**2))) * 10 ** (-20 / 20)
    answer = fp32 + sigma * stream.standard_normal(fp32.shape)
    agreement = agreement_percent(fp32, answer, margin_for(fp32, 20.0))
    assert agreement is not None
    assert agreement > 99.99


def test_margins_are_the_lead_of_the_best() -> None:
    scores = np.array([[1.0, 5.0, 3.0], [2.0, 2.0, 0.0]], np.float32)
    np.testing.assert_array_equal(margins(scores), [2.0, 0.0])


def test_sure_decisions_and_all_classes_come_first() -> None:
    """Class 0 has most samples; every class is there nevertheless, unsure ones last."""
    scores = np.array([[9, 0, 0]] * 6 + [[0, 9, 0]] * 2 + [[0, 8.9, 9]] * 1 + [[0, 0, 9]] * 1, np.float32)
    assert choose(scores, decision_margin=1.0, count=3) == [0, 6, 9]
    assert choose(scores, decision_margin=1.0, count=10) == list(range(10))
    assert 8 not in choose(scores, decision_margin=1.0, count=9)


def test_without_scores_samples_come_in_order() -> None:
    assert choose(None, 0.0, 3) == [0, 1, 2]


@given(st.integers(1, 10_000))
def test_candidates_are_spread_over_the_whole_set(count: int) -> None:
    found = candidates(count)
    assert len(found) == len(set(found)) == min(count, CANDIDATES)
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, count - 1 if count > 1 else 0)


@pytest.mark.parametrize(("sample_bytes", "count"), [(4, VECTORS), (1024**2, 8), (64 * 1024**2, VECTORS_MIN)])
def test_large_inputs_make_fewer_vectors(sample_bytes: int, count: int) -> None:
    assert vector_count([np.zeros((2, sample_bytes), np.uint8)]) == count


def test_synthesized_inputs_fit_the_model_and_repeat() -> None:
    mask = TensorSpec(name="mask", datatype="BOOL", shape=(-1, 3))
    tokens = TensorSpec(name="tokens", datatype="INT64", shape=(1, 3))
    first, second = synthesized([IMAGE, mask, tokens]), synthesized([IMAGE, mask, tokens])
    assert first is not None
    assert second is not None
    assert first.count == VECTORS
    assert first.sha256 == second.sha256
    assert [array.dtype for array in first.arrays.values()] == [np.float32, np.bool_, np.int64]


def test_free_axes_cannot_be_synthesized() -> None:
    assert synthesized([TensorSpec(name="x", datatype="FP32", shape=(-1, -1))]) is None
