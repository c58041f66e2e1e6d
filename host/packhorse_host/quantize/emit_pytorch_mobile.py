"""`.ptl` models for PyTorch Mobile, quantized by torch.ao for QNNPACK. Legacy: ExecuTorch took its place."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from packhorse_agent.contract.recipe import DynamicWi8Afp32, MixedWi8Ai8, Recipe, StaticWi8Ai8
from packhorse_host.convert.building import Progress
from packhorse_host.convert.model import FloatModel
from packhorse_host.evaluate.samples import Samples
from packhorse_host.quantize.emit_torch import Emitted, check_options, count_in_tool, emit_in_tool, silently
from packhorse_host.quantize.errors import UnsupportedRecipeError
from packhorse_host.quantize.graph import KernelCounts

UNFIT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fp16": "the lite interpreter has no kernels for half precision on CPUs; fp32 is the nearest",
        "static_wi8_ai16": "QNNPACK has no kernels for 16 bits; static_wi8_ai8 is the nearest",
        "weight_only_wi8_afp32": "QNNPACK has no kernels for 8-bit weights with float activations; "
        "dynamic_wi8_afp32 stores the same weights",
        "weight_only_wi4_afp32": "QNNPACK has no kernels for 4-bit weights; dynamic_wi8_afp32 is the nearest",
        "qat_wi8_ai8": "its operators are made by a quantizer of their own, which takes no Q/DQ pairs; "
        "pack it for executorch",
    }
)
"""Recipes that the runtime does not have, and why."""
_LINEAR: Final = frozenset({"Gemm", "MatMul"})


def emit(
    source: FloatModel, recipe: Recipe, calibration: Samples | None, progress: Progress = silently
) -> Emitted:
    """Quantize by a recipe; the result is a `.ptl` file that describes its inputs and outputs.

    Args:
        source: a float program of torch.export.
        recipe: fp32, dynamic_wi8_afp32, or static_wi8_ai8 and mixed_wi8_ai8 with uint8 activations.
        calibration: for the static ones.
        progress: told what happens.

    Raises:
        UnsupportedRecipeError: the recipe, or an option of it, is not to be had on this runtime.
        PackhorseError: as `emit_in_tool`.
    """
    reason = UNFIT.get(recipe.name)
    if reason is not None:
        raise UnsupportedRecipeError(f"pytorch-mobile cannot have recipe {recipe.name}: {reason}")
    check_options(recipe, "pytorch-mobile", "uint8")
    if isinstance(recipe, StaticWi8Ai8 | MixedWi8Ai8) and recipe.operators is not None:
        raise UnsupportedRecipeError(
            f"recipe {recipe.name} on pytorch-mobile: operators cannot be chosen; mixed_wi8_ai8 names nodes"
        )
    if isinstance(recipe, DynamicWi8Afp32) and not set(recipe.operators) <= _LINEAR:
        raise UnsupportedRecipeError(
            f"recipe {recipe.name} on pytorch-mobile: only Gemm and MatMul can quantize on the fly"
        )
    return emit_in_tool("pytorch_mobile", source, recipe, calibration, progress)


def count_integer_kernels(data: bytes, progress: Progress = silently) -> KernelCounts:
    """Operators that multiply and accumulate, and how many of them in integers."""
    return count_in_tool("pytorch_mobile_kernels", data, progress)
