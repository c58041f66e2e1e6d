"""Details that are set by hand go into recipes that have them, and are refused elsewhere."""

from __future__ import annotations

import pytest

from packhorse_agent.contract.recipe import CalibrationMethod, DynamicWi8Afp32, Fp32, Recipe, StaticWi8Ai8
from packhorse_host.bundle.settings import Settings
from packhorse_host.errors import ConfigError


def test_nothing_set_changes_nothing() -> None:
    for recipe in (Fp32(), DynamicWi8Afp32(), StaticWi8Ai8(equalize=True)):
        assert Settings().apply(recipe) == recipe


def test_every_detail_arrives() -> None:
    settings = Settings(CalibrationMethod.MSE, None, equalize=True, correct_bias=True, data_free=True)
    assert settings.apply(StaticWi8Ai8(activation_type="uint8")) == StaticWi8Ai8(
        activation_type="uint8",
        calibration=CalibrationMethod.MSE,
        equalize=True,
        correct_bias=True,
        data_free=True,
    )


def test_a_percentile_names_its_method() -> None:
    assert Settings(percentile=99.9).apply(StaticWi8Ai8()) == StaticWi8Ai8(
        calibration=CalibrationMethod.PERCENTILE, percentile=99.9
    )


@pytest.mark.parametrize(
    ("settings", "recipe", "words"),
    [
        (Settings(equalize=True), Fp32(), "--equalize: for recipes with ranges"),
        (Settings(CalibrationMethod.MSE), DynamicWi8Afp32(), "--calibration-method: for recipes"),
        (Settings(correct_bias=True, data_free=True), Fp32(), "--correct-bias, --data-free"),
        (Settings(CalibrationMethod.MSE, 99.0), StaticWi8Ai8(), "--percentile is for"),
        (Settings(percentile=12.0), StaticWi8Ai8(), "--percentile: .*greater than 50"),
        (Settings(percentile=float("nan")), StaticWi8Ai8(), "--percentile"),
    ],
)
def test_details_that_do_not_fit(settings: Settings, recipe: Recipe, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings.apply(recipe)
