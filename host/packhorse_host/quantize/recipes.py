"""From what was asked for and what the profile prefers to one recipe, whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from packhorse_agent.contract.profile import Profile, ProfileRuntime
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
from packhorse_agent.toml_files import nearest
from packhorse_host.quantize.errors import UnknownRecipeError, UnservedProfileError
from packhorse_host.quantize.graph import Architecture

AUTO: Final = "auto"
PACKABLE_RUNTIMES: Final = ("onnxruntime",)
"""Runtimes that an emitter exists for."""

_BY_NAME: Final[Mapping[str, Callable[[], Recipe]]] = {
    "fp32": Fp32,
    "fp16": Fp16,
    "dynamic_wi8_afp32": DynamicWi8Afp32,
    # No processor here has integer kernels for 16 bits: the pairs round, and floats are multiplied.
    "static_wi8_ai16": StaticWi8Ai16,
    "weight_only_wi8_afp32": WeightOnlyWi8Afp32,
    "weight_only_wi4_afp32": WeightOnlyWi4Afp32,
    "qat_wi8_ai8": QatWi8Ai8,
}
"""Recipes that are the same for every processor."""
_BELOW_FOUR_BITS: Final = re.compile(r"_[wa]i[123](?![0-9])")


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
        UnknownRecipeError: no recipe has this name, or it cannot be chosen by name.
    """
    wanted = profile.recipe.name if name == AUTO else name
    if wanted in _BY_NAME:
        return _BY_NAME[wanted]()
    if wanted == "static_wi8_ai8":
        # x86 has integer kernels for uint8 activations only; where residual additions share an int8 tensor
        # the runtime cannot turn it to uint8 and leaves the convolutions around it in floating point.
        return StaticWi8Ai8(activation_type="int8" if fuses_as(profile) is Architecture.AARCH64 else "uint8")
    raise UnknownRecipeError(_why_not(wanted))


def _why_not(wanted: str) -> str:
    if wanted == "mixed_wi8_ai8":
        return (
            "mixed_wi8_ai8 leaves the nodes that hurt most in floating point, and a search finds which: "
            f"give --recipe {AUTO}"
        )
    if _BELOW_FOUR_BITS.search(wanted):
        return (
            f"{wanted}: below INT4 no runtime here has kernels, and rounding to 8 levels or fewer costs more "
            "accuracy than a smaller model would; weight_only_wi4_afp32 is the smallest"
        )
    hint = nearest(wanted, list(RECIPE_NAMES)) or f"; there are {', '.join(RECIPE_NAMES)}"
    return f'there is no recipe "{wanted}"{hint}'


def fuses_as(profile: Profile) -> Architecture:
    """The processor family whose fusions count for the profile."""
    x86 = profile.compatible.architectures[0] == "x86_64"
    return Architecture.X86_64 if x86 else Architecture.AARCH64


def needs_calibration(recipe: Recipe) -> bool:
    """Whether the recipe fixes activation ranges from data."""
    return isinstance(recipe, StaticWi8Ai8 | StaticWi8Ai16 | MixedWi8Ai8)


def is_data_free(recipe: Recipe) -> bool:
    """Whether the recipe's ranges come from made-up inputs."""
    return isinstance(recipe, StaticWi8Ai8 | StaticWi8Ai16 | MixedWi8Ai8) and recipe.data_free
