"""A recipe in a few words, with the settings that set it apart."""

from __future__ import annotations

from packhorse_agent.contract.recipe import (
    CalibrationMethod,
    DynamicWi8Afp32,
    MixedWi8Ai8,
    Recipe,
    StaticWi8Ai8,
    StaticWi8Ai16,
)


def label(recipe: Recipe) -> str:
    """The name and what differs from its defaults: `static_wi8_ai8, mse, equalized, Conv only`."""
    return ", ".join([recipe.name, *_settings(recipe)])


def _settings(recipe: Recipe) -> list[str]:
    if isinstance(recipe, DynamicWi8Afp32):
        return [_nodes(recipe.float_nodes)] if recipe.float_nodes else []
    if not isinstance(recipe, (StaticWi8Ai8, StaticWi8Ai16, MixedWi8Ai8)):
        return []
    words = [] if recipe.calibration is CalibrationMethod.MINMAX else [_calibration(recipe)]
    words += ["data-free"] * recipe.data_free
    words += ["equalized"] * recipe.equalize
    words += ["biases corrected"] * recipe.correct_bias
    words += ["weights per tensor"] * (not recipe.per_channel)
    words += ["reduced range"] * recipe.reduce_range
    if recipe.operators is not None:
        words.append(f"{' '.join(recipe.operators)} only")
    if isinstance(recipe, MixedWi8Ai8):
        words.append(_nodes(recipe.float_nodes))
    return words


def _calibration(recipe: StaticWi8Ai8 | StaticWi8Ai16 | MixedWi8Ai8) -> str:
    if recipe.calibration is CalibrationMethod.PERCENTILE:
        return f"percentile {recipe.percentile:g}"
    return str(recipe.calibration.value)


def _nodes(names: tuple[str, ...]) -> str:
    return f"{len(names)} node{'s' * (len(names) != 1)} in float"
