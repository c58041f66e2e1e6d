"""A bundle's recipe as a device sees it: its name, and settings that only the packer reads.

A device that is older than a recipe serves its bundles all the same.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from packhorse_agent.contract.base import WireDocument

RecipeName = Literal[
    "fp32",
    "fp16",
    "dynamic_wi8_afp32",
    "static_wi8_ai8",
    "static_wi8_ai16",
    "mixed_wi8_ai8",
    "weight_only_wi8_afp32",
    "weight_only_wi4_afp32",
    "qat_wi8_ai8",
]

RECIPE_NAMES: tuple[str, ...] = get_args(RecipeName)


class RecipeRecord(WireDocument):
    """Any recipe, whole: made of one, and `TypeAdapter(Recipe)` reads it back from `model_dump()`."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]{0,62}$")]

    @model_validator(mode="before")
    @classmethod
    def _of_a_recipe(cls, value: Any) -> Any:
        return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
