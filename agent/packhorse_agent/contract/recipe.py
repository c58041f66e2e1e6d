"""Recipes: named, frozen ways to quantize. The name says weights, activations and mode.

Devices carry the recipe of a manifest as a record (`recipe_record`) and never import this.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import Field

from packhorse_agent.contract.base import WireDocument

NODES_MAX = 1_000
"""Names of nodes in one recipe: with names of 32 characters they fill half of a manifest."""

NodeName = Annotated[str, Field(min_length=1, max_length=256)]


class CalibrationMethod(str, Enum):
    """How activation ranges are chosen from representative data."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


class Fp32(WireDocument):
    """The model as it came."""

    name: Literal["fp32"] = "fp32"


class Fp16(WireDocument):
    """Weights and arithmetic in half precision; inputs and outputs keep their type."""

    name: Literal["fp16"] = "fp16"


class DynamicWi8Afp32(WireDocument):
    """INT8 weights, activations quantized on the fly, for the named operators only."""

    name: Literal["dynamic_wi8_afp32"] = "dynamic_wi8_afp32"
    operators: tuple[str, ...] = ("Gemm", "MatMul")
    per_channel: bool = True
    float_nodes: Annotated[tuple[NodeName, ...], Field(max_length=NODES_MAX)] = ()
    """Nodes of the prepared graph that stay in floating point."""


class _Static(WireDocument):
    """What recipes with ranges from calibration have in common."""

    calibration: CalibrationMethod = CalibrationMethod.MINMAX
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    """Share of the absolute values inside the range; for `CalibrationMethod.PERCENTILE` only."""
    per_channel: bool = True
    symmetric_activations: bool = False
    weight_type: Literal["int8", "uint8"] = "int8"
    reduce_range: bool = False
    operators: tuple[str, ...] | None = None
    """None: every operator that the runtime has an integer kernel for."""
    equalize: bool = False
    """Cross-layer equalization before ranges are taken."""
    correct_bias: bool = False
    """Biases shifted by the mean error that quantization makes per channel."""
    data_free: bool = False
    """Calibrated on synthesized inputs: nobody gave data."""


class StaticWi8Ai8(_Static):
    """INT8 weights and activations with ranges from calibration, as Q/DQ pairs."""

    name: Literal["static_wi8_ai8"] = "static_wi8_ai8"
    activation_type: Literal["int8", "uint8"] = "int8"


class StaticWi8Ai16(_Static):
    """INT8 weights and 16-bit activations with ranges from calibration."""

    name: Literal["static_wi8_ai16"] = "static_wi8_ai16"
    activation_type: Literal["int16", "uint16"] = "int16"


class MixedWi8Ai8(_Static):
    """`StaticWi8Ai8` but for the nodes that hurt most, which stay in floating point; found by search."""

    name: Literal["mixed_wi8_ai8"] = "mixed_wi8_ai8"
    activation_type: Literal["int8", "uint8"] = "int8"
    float_nodes: Annotated[tuple[NodeName, ...], Field(min_length=1, max_length=NODES_MAX)]
    """Nodes of the prepared graph (see `packhorse_host.quantize.prepare`)."""


class WeightOnlyWi8Afp32(WireDocument):
    """INT8 weights that are turned to floating point when they are used: smaller, not faster."""

    name: Literal["weight_only_wi8_afp32"] = "weight_only_wi8_afp32"
    operators: tuple[str, ...] = ("Conv", "Gemm", "MatMul")
    per_channel: bool = True


class WeightOnlyWi4Afp32(WireDocument):
    """INT4 weights in blocks with a scale each, for matrix products."""

    name: Literal["weight_only_wi4_afp32"] = "weight_only_wi4_afp32"
    block_size: Literal[16, 32, 64, 128, 256] | None = 32
    """Weights that share a scale; None: all of an output channel."""
    symmetric: bool = True


class QatWi8Ai8(WireDocument):
    """Quantized by training: ranges and weights come with the model, which is converted as it is."""

    name: Literal["qat_wi8_ai8"] = "qat_wi8_ai8"


Recipe = Annotated[
    Fp32
    | Fp16
    | DynamicWi8Afp32
    | StaticWi8Ai8
    | StaticWi8Ai16
    | MixedWi8Ai8
    | WeightOnlyWi8Afp32
    | WeightOnlyWi4Afp32
    | QatWi8Ai8,
    Field(discriminator="name"),
]
"""Any recipe; the manifest stores it whole, so that `pack --reproduce` can replay it."""
