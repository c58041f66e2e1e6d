"""From what was asked for and what the profile prefers to one recipe, whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Final

from packhorse_agent.contract.profile import Profile, ProfileRuntime, RuntimeName
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
PACKABLE_RUNTIMES: Final[tuple[RuntimeName, ...]] = ("onnxruntime", "litert", "tensorrt")
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
_FOR_LITERT: Final[Mapping[str, Callable[[], Recipe]]] = {
    # Its convolutions quantize their activations themselves at little cost.
    "dynamic_wi8_afp32": lambda: DynamicWi8Afp32(operators=("Conv", "Gemm", "MatMul")),
    "static_wi8_ai8": StaticWi8Ai8,
    "weight_only_wi4_afp32": lambda: WeightOnlyWi4Afp32(block_size=None),
}
"""Recipes that LiteRT wants otherwise, on any processor."""
_BELOW_FOUR_BITS: Final = re.compile(r"_[wa]i[123](?![0-9])")


def choose_runtime(
    profile: Profile,
    wanted: RuntimeName | None = None,
    possible: Collection[RuntimeName] = PACKABLE_RUNTIMES,
) -> ProfileRuntime:
    """The profile's runtime that is wanted, else the first of those that can be packed for.

    Args:
        profile: lists runtimes in order of preference.
        wanted: one by name; None: whichever comes first.
        possible: runtimes that the model can be converted for; where that is none of the profile's, the
            first that is packed for at all.

    Raises:
        UnservedProfileError: there is none.
    """
    packable = [runtime for runtime in profile.runtimes if runtime.name in PACKABLE_RUNTIMES]
    packable.sort(key=lambda runtime: runtime.name not in possible)
    for runtime in packable:
        if wanted in (None, runtime.name):
            return runtime
    served = ", ".join(runtime.name for runtime in profile.runtimes)
    if wanted is not None:
        raise UnservedProfileError(
            f"--runtime {wanted}: profile `{profile.name}` is served by {served}; "
            f"this version packs for {', '.join(PACKABLE_RUNTIMES)}"
        )
    raise UnservedProfileError(
        f"profile `{profile.name}` is served by {served} only; "
        f"this version packs for {', '.join(PACKABLE_RUNTIMES)}"
    )


def choose_recipe(name: str, profile: Profile, runtime: RuntimeName = "onnxruntime") -> Recipe:
    """The recipe called `name`, or the profile's own for `auto`, as its processor and the runtime want it.

    Raises:
        UnknownRecipeError: no recipe has this name, or it cannot be chosen by name.
    """
    wanted = profile.recipe.name if name == AUTO else name
    if runtime == "litert" and wanted in _FOR_LITERT:
        return _FOR_LITERT[wanted]()
    if wanted in _BY_NAME:
        return _BY_NAME[wanted]()
    if runtime == "tensorrt" and wanted == "static_wi8_ai8":
        return StaticWi8Ai8(symmetric_activations=True)
    if wanted == "static_wi8_ai8":
        if fuses_as(profile) is Architecture.AARCH64:
            return StaticWi8Ai8()
        # x86 has integer kernels for uint8 activations only; where residual additions share an int8 tensor
        # the runtime cannot turn it to uint8 and leaves the convolutions around it in floating point.
        # Without VNNI its fast products are exact for weights of 7 bits only; for others it takes slow ones.
        return StaticWi8Ai8(activation_type="uint8", reduce_range=True)
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
