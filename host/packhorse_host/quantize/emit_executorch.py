"""`.pte` programs for ExecuTorch, quantized by torchao (PT2E) and lowered to XNNPACK."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from packhorse_agent.contract.recipe import Recipe
from packhorse_host.convert.building import Progress
from packhorse_host.convert.model import FloatModel
from packhorse_host.evaluate.samples import Samples
from packhorse_host.quantize.emit_torch import Emitted, check_options, count_in_tool, emit_in_tool, silently
from packhorse_host.quantize.errors import UnsupportedRecipeError
from packhorse_host.quantize.graph import KernelCounts

UNFIT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "static_wi8_ai16": "XNNPACK has no integer kernels for 16 bits; static_wi8_ai8 is the nearest",
        "weight_only_wi8_afp32": "XNNPACK has no kernels for 8-bit weights with float activations; "
        "dynamic_wi8_afp32 stores the same weights",
        "weight_only_wi4_afp32": "XNNPACK's kernels for 4-bit weights quantize the activations too; "
        "dynamic_wi8_afp32 is the nearest",
    }
)
"""Recipes that the runtime does not have, and why."""


def emit(
    source: FloatModel, recipe: Recipe, calibration: Samples | None, progress: Progress = silently
) -> Emitted:
    """Quantize by a recipe; the result is a `.pte` file with the source's inputs and outputs, in order.

    Args:
        source: a program of torch.export, float, or with Q/DQ pairs for `qat_wi8_ai8`.
        recipe: fp32, fp16, dynamic_wi8_afp32, static_wi8_ai8, mixed_wi8_ai8 or qat_wi8_ai8.
        calibration: for the static ones.
        progress: told what happens.

    Raises:
        UnsupportedRecipeError: the recipe, or an option of it, is not to be had on this runtime.
        PackhorseError: as `emit_in_tool`.
    """
    reason = UNFIT.get(recipe.name)
    if reason is not None:
        raise UnsupportedRecipeError(f"executorch cannot have recipe {recipe.name}: {reason}")
    check_options(recipe, "executorch", "int8")
    return emit_in_tool("executorch_program", source, recipe, calibration, progress)


def count_integer_kernels(data: bytes, progress: Progress = silently) -> KernelCounts:
    """Kernels that multiply and accumulate, in the plan and in the payloads for XNNPACK, and integer ones."""
    return count_in_tool("executorch_kernels", data, progress)
