"""The hard variants of the sample come back: what `scripts/variants` measures, on a part of its images."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from variants_builder.hard import make_hard
from variants_builder.measure import SAMPLE, Score, measure, read_data

EVERY = 5
"""400 images: a quarter of a point is one of them."""


@pytest.fixture(scope="module", params=[4.0, 6.0], ids=lambda spread: f"2^{spread:g}")
def scores(request: pytest.FixtureRequest) -> dict[str, Score]:
    return {score.recipe: score for score in measure(read_data(EVERY), request.param, seed=0)}


@pytest.mark.slow
def test_plain_quantization_loses_them(scores: dict[str, Score]) -> None:
    assert scores["plain, per channel"].drop_points > 5
    assert scores["plain, per tensor"].drop_points > 30


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["equalized", "equalized, biases corrected"])
def test_equalization_brings_them_back(scores: dict[str, Score], recipe: str) -> None:
    assert scores[recipe].drop_points <= 0.5


@pytest.mark.slow
def test_so_it_does_without_data(scores: dict[str, Score]) -> None:
    assert scores["data-free"].drop_points <= 1.5
    assert scores["data-free"].agreement_percent > 95


def test_the_float_function_stays() -> None:
    """To 1e-4 of the largest answer."""
    model = onnx.load(SAMPLE / "model.onnx")
    images = read_data(100).images
    expected, found = (
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, {"image": images})[0]
        for each in (model, make_hard(model, 6.0, seed=0))
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))


def test_a_seed_makes_one_variant() -> None:
    model = onnx.load(SAMPLE / "model.onnx")
    assert make_hard(model, 4.0, seed=1) == make_hard(model, 4.0, seed=1)
    assert make_hard(model, 4.0, seed=1) != make_hard(model, 4.0, seed=2)
