"""Which runtime and recipe a profile gets."""

from __future__ import annotations

import pytest

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.recipe import (
    DynamicWi8Afp32,
    Fp16,
    Fp32,
    MixedWi8Ai8,
    QatWi8Ai8,
    Recipe,
    StaticWi8Ai8,
    StaticWi8Ai16,
    WeightOnlyWi4Afp32,
    WeightOnlyWi8Afp32,
)
from packhorse_agent.contract.recipe_record import RECIPE_NAMES
from packhorse_agent.profiles import builtin_profiles
from packhorse_host.quantize.errors import UnknownRecipeError, UnservedProfileError
from packhorse_host.quantize.recipes import choose_recipe, choose_runtime, needs_calibration
from tests.host.float_models import profile

MOBILE = {"name": "pytorch-mobile", "minimum_version": "2.0"}
ONNXRUNTIME = {"name": "onnxruntime", "minimum_version": "1.20"}


def test_the_first_runtime_that_can_be_packed_for() -> None:
    chosen = choose_runtime(profile(runtimes=[MOBILE, ONNXRUNTIME]))
    assert chosen.name == "onnxruntime"


def test_a_profile_that_no_runtime_serves() -> None:
    with pytest.raises(UnservedProfileError, match=r"`board` is served by pytorch-mobile only") as caught:
        choose_runtime(profile(runtimes=[MOBILE]))
    assert caught.value.exit_code is ExitCode.BAD_INPUT


@pytest.mark.parametrize("name", list(builtin_profiles()))
def test_auto_serves_every_profile_that_comes_along(name: str) -> None:
    found = builtin_profiles()[name]
    choose_runtime(found)
    assert choose_recipe("auto", found).name == found.recipe.name


@pytest.mark.parametrize(
    ("architecture", "activations", "reduced"), [("aarch64", "int8", False), ("x86_64", "uint8", True)]
)
def test_static_suits_the_processor(architecture: str, activations: str, reduced: bool) -> None:
    recipe = choose_recipe("static_wi8_ai8", profile(architecture=architecture))
    assert isinstance(recipe, StaticWi8Ai8)
    assert recipe.activation_type == activations
    assert recipe.reduce_range is reduced
    assert recipe.per_channel
    assert not recipe.symmetric_activations


@pytest.mark.parametrize("name", sorted(set(RECIPE_NAMES) - {"mixed_wi8_ai8"}))
@pytest.mark.parametrize("architecture", ["aarch64", "x86_64"])
def test_every_recipe_but_the_searched_one_has_a_name_to_choose(name: str, architecture: str) -> None:
    assert choose_recipe(name, profile(architecture=architecture)).name == name


def test_a_mixed_plan_is_searched_not_named() -> None:
    with pytest.raises(UnknownRecipeError, match="--recipe auto"):
        choose_recipe("mixed_wi8_ai8", profile())


@pytest.mark.parametrize(
    "name", ["weight_only_wi3_afp32", "weight_only_wi2_afp32", "weight_only_wi1_afp32", "static_wi2_ai8"]
)
def test_below_four_bits_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(UnknownRecipeError, match=r"below INT4.*weight_only_wi4_afp32 is the smallest"):
        choose_recipe(name, profile())


@pytest.mark.parametrize(
    ("recipe", "needed"),
    [
        (Fp32(), False),
        (Fp16(), False),
        (DynamicWi8Afp32(), False),
        (StaticWi8Ai8(), True),
        (StaticWi8Ai16(), True),
        (MixedWi8Ai8(float_nodes=("a",)), True),
        (WeightOnlyWi8Afp32(), False),
        (WeightOnlyWi4Afp32(), False),
        (QatWi8Ai8(), False),
    ],
)
def test_only_fixed_ranges_need_calibration(recipe: Recipe, needed: bool) -> None:
    assert needs_calibration(recipe) is needed


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UnknownRecipeError, match=r'static_wi8_ai9.*did you mean "static_wi8_ai8"') as caught:
        choose_recipe("static_wi8_ai9", profile())
    assert caught.value.exit_code is ExitCode.USAGE
