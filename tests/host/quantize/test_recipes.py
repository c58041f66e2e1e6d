"""Which runtime and recipe a profile gets."""

from __future__ import annotations

import pytest

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.recipe import DynamicWi8Afp32, Fp32, StaticWi8Ai8
from packhorse_agent.profiles import builtin_profiles
from packhorse_host.quantize.errors import UnknownRecipeError, UnservedProfileError
from packhorse_host.quantize.recipes import choose_recipe, choose_runtime, needs_calibration
from tests.host.float_models import profile

TENSORRT = {"name": "tensorrt", "minimum_version": "10.3"}
ONNXRUNTIME = {"name": "onnxruntime", "minimum_version": "1.20"}


def test_the_first_runtime_that_can_be_packed_for() -> None:
    chosen = choose_runtime(profile(runtimes=[TENSORRT, ONNXRUNTIME]))
    assert chosen.name == "onnxruntime"


def test_a_profile_that_no_runtime_serves() -> None:
    with pytest.raises(UnservedProfileError, match=r"`board` is served by tensorrt only") as caught:
        choose_runtime(profile(runtimes=[TENSORRT]))
    assert caught.value.exit_code is ExitCode.BAD_INPUT


@pytest.mark.parametrize("name", list(builtin_profiles()))
def test_auto_serves_every_profile_that_comes_along(name: str) -> None:
    found = builtin_profiles()[name]
    choose_runtime(found)
    assert choose_recipe("auto", found).name == found.recipe.name


@pytest.mark.parametrize(("architecture", "activations"), [("aarch64", "int8"), ("x86_64", "uint8")])
def test_static_suits_the_processor(architecture: str, activations: str) -> None:
    recipe = choose_recipe("static_wi8_ai8", profile(architecture=architecture))
    assert isinstance(recipe, StaticWi8Ai8)
    assert recipe.activation_type == activations
    assert recipe.per_channel
    assert not recipe.symmetric_activations


def test_recipes_by_name() -> None:
    assert choose_recipe("fp32", profile()) == Fp32()
    assert choose_recipe("dynamic_wi8_afp32", profile()) == DynamicWi8Afp32()


def test_only_fixed_ranges_need_calibration() -> None:
    needing = [needs_calibration(recipe) for recipe in (Fp32(), DynamicWi8Afp32(), StaticWi8Ai8())]
    assert needing == [False, False, True]


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UnknownRecipeError, match=r'static_wi8_ai9.*did you mean "static_wi8_ai8"') as caught:
        choose_recipe("static_wi8_ai9", profile())
    assert caught.value.exit_code is ExitCode.USAGE
