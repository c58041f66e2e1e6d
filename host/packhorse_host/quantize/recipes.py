"""From what was asked for and what the profile prefers to one recipe, whole."""

from __future__ import annotations

from typing import Final

from packhorse_agent.contract.profile import Profile, ProfileRuntime
from packhorse_agent.contract.recipe import (
    RECIPE_NAMES,
    DynamicWi8Afp32,
    Fp32,
    Recipe,
    StaticWi8Ai8,
)
from packhorse_agent.toml_files import nearest
from packhorse_host.quantize.errors import UnknownRecipeError, UnservedProfileError
from packhorse_host.quantize.graph import Architecture

AUTO: Final = "auto"
PACKABLE_RUNTIMES: Final = ("onnxruntime",)
"""Runtimes that an emitter exists for."""


def choose_runtime(profile: Profile) -> ProfileRuntime:
    """The first of the profile's runtimes that can be packed for.

    Raises:
        UnservedProfileError: there is none.
    """
    for runtime in profile.runtimes:
        if runtime.name in PACKABLE_RUNTIMES:
            return runtime
    served = ", ".join(runtime.name for runtime in profile.runtimes)
    raise UnservedProfileError(
        f"profile `{profile.name}` is served by {served} only; "
        f"this version packs for {', '.join(PACKABLE_RUNTIMES)}"
    )


def choose_recipe(name: str, profile: Profile) -> Recipe:
    """The recipe called `name`, or the profile's own for `auto`, with the settings that its processor wants.

    Raises:
        UnknownRecipeError: no recipe has this name.
    """
    wanted = profile.recipe.name if name == AUTO else name
    if wanted == "fp32":
        return Fp32()
    if wanted == "dynamic_wi8_afp32":
        return DynamicWi8Afp32()
    if wanted == "static_wi8_ai8":
        # x86 has integer kernels for uint8 activations only; where residual additions share an int8 tensor
        # the runtime cannot turn it to uint8 and leaves the convolutions around it in floating point.
        return StaticWi8Ai8(activation_type="int8" if fuses_as(profile) is Architecture.AARCH64 else "uint8")
    hint = nearest(wanted, list(RECIPE_NAMES)) or f"; there are {', '.join(RECIPE_NAMES)}"
    raise UnknownRecipeError(f'there is no recipe "{wanted}"{hint}')


def fuses_as(profile: Profile) -> Architecture:
    """The processor family whose fusions count for the profile."""
    x86 = profile.compatible.architectures[0] == "x86_64"
    return Architecture.X86_64 if x86 else Architecture.AARCH64


def needs_calibration(recipe: Recipe) -> bool:
    """Whether the recipe fixes activation ranges from data."""
    return isinstance(recipe, StaticWi8Ai8)
