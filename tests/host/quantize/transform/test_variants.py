"""The hard variants of the sample come back: what `scripts/variants` measures, on a part of its images."""

from __future__ import annotations

import pytest

from variants_builder.measure import Score, measure, read_data

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
