"""Recipes: named, frozen ways to quantize. The name says weights, activations and mode."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal, get_args

from pydantic import Field

from packhorse_agent.contract.base import WireDocument


class CalibrationMethod(str, Enum):
    """How activation ranges are chosen from representative data."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"


class Fp32(WireDocument):
    """The model as it came."""

    name: Literal["fp32"] = "fp32"


class DynamicWi8Afp32(WireDocument):
    """INT8 weights, activations quantized on the fly, for the named operators only."""

    name: Literal["dynamic_wi8_afp32"] = "dynamic_wi8_afp32"
    operators: tuple[str, ...] = ("Gemm", "MatMul")
    per_channel: bool = True


class StaticWi8Ai8(WireDocument):
    """INT8 weights and activations with ranges from calibration, as Q/DQ pairs."""

    name: Literal["static_wi8_ai8"] = "static_wi8_ai8"
    calibration: CalibrationMethod = CalibrationMethod.MINMAX
    per_channel: bool = True
    symmetric_activations: bool = False
    activation_type: Literal["int8", "uint8"] = "int8"
    weight_type: Literal["int8", "uint8"] = "int8"
    reduce_range: bool = False
    operators: tuple[str, ...] | None = None
    """None: every operator that the runtime has an integer kernel for."""


Recipe = Annotated[Fp32 | DynamicWi8Afp32 | StaticWi8Ai8, Field(discriminator="name")]
"""Any recipe; the manifest stores it whole, so that `pack --reproduce` can replay it."""

RecipeName = Literal["fp32", "dynamic_wi8_afp32", "static_wi8_ai8"]

RECIPE_NAMES: tuple[str, ...] = get_args(RecipeName)
