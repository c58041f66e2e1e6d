"""Details of a recipe that are set by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from packhorse_agent.contract.recipe import (
    CalibrationMethod,
    MixedWi8Ai8,
    Recipe,
    StaticWi8Ai8,
    StaticWi8Ai16,
)
from packhorse_host.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """What was set; what was not stays as the recipe has it."""

    calibration: CalibrationMethod | None = None
    percentile: float | None = None
    equalize: bool = False
    correct_bias: bool = False
    data_free: bool = False

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with these details.

        Raises:
            ConfigError: it has no ranges from calibration, or a detail is out of its limits.
        """
        changes = self._changes()
        if not changes:
            return recipe
        if not isinstance(recipe, (StaticWi8Ai8, StaticWi8Ai16, MixedWi8Ai8)):
            options = ", ".join(f"--{_OPTIONS[name]}" for name in sorted(changes))
            raise ConfigError(
                f"{options}: for recipes with ranges from calibration, such as static_wi8_ai8; "
                f"{recipe.name} has none"
            )
        try:
            changed: Recipe = type(recipe).model_validate(recipe.model_dump() | changes | self._implied())
        except ValidationError as error:
            raise ConfigError(f"--percentile: {error.errors()[0]['msg']}") from error
        return changed

    def _implied(self) -> dict[str, bool]:
        # Made-up inputs find ranges only of channels that are alike, and biases need no data that is real.
        return {"equalize": True, "correct_bias": True} if self.data_free else {}

    def _changes(self) -> dict[str, Any]:
        changes: dict[str, Any] = {} if self.calibration is None else {"calibration": self.calibration}
        if self.percentile is not None:
            if self.calibration not in (None, CalibrationMethod.PERCENTILE):
                raise ConfigError("--percentile is for --calibration-method percentile")
            changes |= {"calibration": CalibrationMethod.PERCENTILE, "percentile": self.percentile}
        flags = {"equalize": self.equalize, "correct_bias": self.correct_bias, "data_free": self.data_free}
        return changes | {name: True for name, on in flags.items() if on}


_OPTIONS = {
    "calibration": "calibration-method",
    "correct_bias": "correct-bias",
    "data_free": "data-free",
    "equalize": "equalize",
    "percentile": "percentile",
}
