"""Recipes are named data that a manifest stores whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from pydantic import TypeAdapter, ValidationError

from packhorse_agent.contract.recipe import Recipe, StaticWi8Ai8
from packhorse_agent.contract.recipe_record import RECIPE_NAMES, RecipeRecord
from tests.agent.contract.strategies import recipes

RECIPE: TypeAdapter[Any] = TypeAdapter(Recipe)


@pytest.mark.parametrize("name", [name for name in RECIPE_NAMES if not name.startswith("mixed")])
def test_every_name_is_a_recipe_with_defaults(name: str) -> None:
    assert RECIPE.validate_python({"name": name}).name == name


@given(recipes)
def test_a_recipe_reads_back_with_all_its_settings(recipe: Recipe) -> None:
    assert RECIPE.validate_json(RECIPE.dump_json(recipe)) == recipe


@given(recipes)
def test_a_recipe_comes_back_whole_from_its_record(recipe: Recipe) -> None:
    record = RecipeRecord.model_validate(recipe)
    again = RecipeRecord.model_validate_json(record.model_dump_json())
    assert (again, again.name) == (record, recipe.name)
    assert RECIPE.validate_python(again.model_dump()) == recipe


def test_a_recipe_that_came_later_can_be_carried_all_the_same() -> None:
    record = RecipeRecord.model_validate_json('{"name": "static_wi2_ai2", "lattice": [1, 2]}')
    assert record.model_dump() == {"name": "static_wi2_ai2", "lattice": [1, 2]}


@pytest.mark.parametrize("name", ["", "../x", "Static", "a" * 64, 7])
def test_a_record_has_a_name_that_is_safe_in_paths(name: Any) -> None:
    with pytest.raises(ValidationError):
        RecipeRecord.model_validate({"name": name})


def test_static_int8_defaults_to_what_runs_in_integers() -> None:
    recipe = StaticWi8Ai8()
    assert (recipe.weight_type, recipe.activation_type, recipe.per_channel) == ("int8", "int8", True)
    assert not recipe.symmetric_activations


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"name": "int8"},
        {"name": "static_wi8_ai8", "calibration": "guess"},
        {"name": "static_wi8_ai8", "weight_type": "int4"},
        {"name": "static_wi8_ai8", "percentile": 0},
        {"name": "mixed_wi8_ai8"},
        {"name": "mixed_wi8_ai8", "float_nodes": []},
        {"name": "weight_only_wi4_afp32", "block_size": 7},
    ],
)
def test_anything_else_is_no_recipe(recipe: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RECIPE.validate_python(recipe)
