"""ONNX models for ONNX Runtime on a CPU.

Settings, with the speed of one CNN against its FP32 self that decided for them: Q/DQ pairs with signed
weights per channel and asymmetric activations 3.0 times faster; symmetric activations 2.4 (Relus stay);
QOperator format 0.27; dynamic quantization of convolutions (ConvInteger) 0.19, so that dynamic is for matrix
products only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod as OrtCalibration
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from packhorse_agent.contract.base import canonical_json
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
from packhorse_host.errors import PackhorseError
from packhorse_host.evaluate.samples import Samples
from packhorse_host.quantize.calibrate.graph import clipped_inputs, range_tensors
from packhorse_host.quantize.calibrate.memory import RangeMemory
from packhorse_host.quantize.calibrate.observer import Range
from packhorse_host.quantize.delicate import final_probabilities, masking
from packhorse_host.quantize.errors import CalibrationNeededError, ModelError
from packhorse_host.quantize.graph import Level, optimized
from packhorse_host.quantize.half import halve
from packhorse_host.quantize.parts import quantized_in_part
from packhorse_host.quantize.prepare import compact, prepare, unshare_weights
from packhorse_host.quantize.source import SourceModel, standard_opset
from packhorse_host.quantize.transform.bias import correct_bias
from packhorse_host.quantize.transform.equalize import equalize
from packhorse_host.quantize.weight_only import eight_bit_weights, four_bit_weights

StaticRecipe: TypeAlias = StaticWi8Ai8 | StaticWi8Ai16 | MixedWi8Ai8
_Made = TypeVar("_Made")

INTEGER_OPERATORS: Final = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gather", "Gemm", "GlobalAveragePool",
    "LeakyRelu", "MatMul", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice",
    "Softmax", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where",
)  # fmt: skip
"""Operators that ONNX Runtime runs on 8-bit tensors on a CPU; around any other a Q/DQ pair only costs."""

CALIBRATION_BATCH: Final = 32
"""Samples that run at once: bounds the memory that intermediate tensors take."""

_TYPES: Final = {
    "int8": QuantType.QInt8,
    "uint8": QuantType.QUInt8,
    "int16": QuantType.QInt16,
    "uint16": QuantType.QUInt16,
}


@dataclass
class Memory:
    """What several recipes for one model have in common, each made once; results are the same without it."""

    ranges: RangeMemory = field(default_factory=RangeMemory)
    _prepared: Any = None
    _pairs: tuple[Hashable, Any, Any] | None = None

    def prepared(self, source: SourceModel) -> Any:
        """A copy of `prepare(source)`."""
        if self._prepared is None:
            self._prepared = prepare(source)
        copy = onnx.ModelProto()
        copy.CopyFrom(self._prepared)
        return copy

    def with_pairs(self, key: Hashable, make: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
        """The float and the quantized model that `make` gives; those asked for last are kept."""
        if self._pairs is None or self._pairs[0] != key:
            self._pairs = (key, *make())
        return self._pairs[1:]


def emit(
    source: SourceModel, recipe: Recipe, calibration: Samples | None, memory: Memory | None = None
) -> bytes:
    """Quantize by a recipe; the result is a serialized ONNX model with the source's inputs and outputs.

    The same source, recipe and calibration give the same bytes on one kind of processor.

    Args:
        source: the float model.
        recipe: how.
        calibration: representative inputs.
        memory: of the same source; makes further recipes cheaper.

    Raises:
        CalibrationNeededError: the recipe needs calibration and there is none.
        ActivationError: the float model makes NaN or infinity of the calibration data.
        ModelError: the model does not quantize, is quantized already, or is not where the recipe says so.
    """
    _check_kind(source, recipe)
    if isinstance(recipe, Fp32):
        return source.data
    if isinstance(recipe, StaticWi8Ai8 | StaticWi8Ai16 | MixedWi8Ai8):
        needed = _needed(recipe, calibration)
        return _emitted(partial(_static, recipe, source, needed, memory or Memory()))
    if isinstance(recipe, QatWi8Ai8):
        # Weights that were trained as float with Q/DQ pairs become integers; the pairs of activations stay.
        return _emitted(lambda: optimized(source.data, Level.BASIC))
    return _emitted(lambda: _without_data(recipe, prepare(source)))


def emit_part(
    source: SourceModel, recipe: StaticRecipe, calibration: Samples, nodes: Collection[str], memory: Memory
) -> bytes:
    """The model with only `nodes` of what the recipe quantizes; names are long and biases uncorrected.

    Args:
        source: the float model.
        recipe: what would be quantized by.
        calibration: representative inputs.
        nodes: names of nodes of the prepared graph.
        memory: keeps the model with all pairs, which parts are cut out of.

    Raises:
        ActivationError: the float model makes NaN or infinity of the calibration data.
        ModelError: the model does not quantize.
    """
    _check_kind(source, recipe)
    key = canonical_json(recipe), calibration.sha256

    def quantized() -> bytes:
        make = partial(_floats_and_pairs, recipe, source, calibration, memory)
        data: bytes = quantized_in_part(*memory.with_pairs(key, make), nodes).SerializeToString()
        return data

    return _translated(quantized)


def _check_kind(source: SourceModel, recipe: Recipe) -> None:
    trained = recipe.name == "qat_wi8_ai8"
    if source.quantized and not trained:
        raise ModelError(
            f"recipe {recipe.name} wants a float model, and this one is quantized already; "
            "quantizing it again would only lose more: --recipe qat_wi8_ai8 packs it as it is"
        )
    if trained and not source.quantized:
        raise ModelError(
            f"recipe {recipe.name} passes on a model that training has quantized, and this one has no Q/DQ "
            "pairs; for a float model there are static_wi8_ai8 and others"
        )


def _needed(recipe: Recipe, calibration: Samples | None) -> Samples:
    if calibration is None:
        raise CalibrationNeededError(f"recipe {recipe.name} needs calibration data")
    return calibration


def _without_data(
    recipe: Fp16 | DynamicWi8Afp32 | WeightOnlyWi8Afp32 | WeightOnlyWi4Afp32, model: Any
) -> Any:
    if isinstance(recipe, Fp16):
        return halve(model)
    if isinstance(recipe, DynamicWi8Afp32):
        return _dynamic(recipe, model)
    if isinstance(recipe, WeightOnlyWi8Afp32):
        return eight_bit_weights(model, recipe)
    return four_bit_weights(model, recipe)


def _emitted(quantize: Callable[[], Any]) -> bytes:
    return compact(_translated(quantize))


def _translated(quantize: Callable[[], _Made]) -> _Made:
    try:
        return quantize()
    except (OSError, PackhorseError):
        raise
    except Exception as error:  # whatever a quantizer of graphs raises on a graph it does not expect
        raise ModelError(f"ONNX Runtime does not quantize this model with this data: {error}") from error


def _dynamic(recipe: DynamicWi8Afp32, model: Any) -> Any:
    floats = _float_nodes(recipe, model.graph)
    unshare_weights(model, recipe.operators, floats)
    with tempfile.TemporaryDirectory(prefix="packhorse-") as folder:
        path = Path(folder) / "quantized.onnx"
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=list(recipe.operators),
            # A Gemm is split into MatMul and Add first, under new names.
            nodes_to_exclude=[*floats, *(f"{name}_MatMul" for name in floats)],
            per_channel=recipe.per_channel,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(path)


def _static(recipe: StaticRecipe, source: SourceModel, calibration: Samples, memory: Memory) -> Any:
    model, quantized = _floats_and_pairs(recipe, source, calibration, memory)
    if not recipe.correct_bias:
        return quantized
    return correct_bias(model, quantized, calibration, batch=_batch(source))


def _floats_and_pairs(
    recipe: StaticRecipe, source: SourceModel, calibration: Samples, memory: Memory
) -> tuple[Any, Any]:
    """The prepared model, and a copy with Q/DQ pairs."""
    model = memory.prepared(source)
    if recipe.equalize:
        model = equalize(model)
    operators = list(recipe.operators or INTEGER_OPERATORS)
    graph = model.graph
    excluded = [*final_probabilities(graph), *masking(graph), *_float_nodes(recipe, graph)]
    unshare_weights(model, operators, excluded)
    ranges = memory.ranges.ranges(
        model,
        range_tensors(model, operators, excluded),
        calibration,
        recipe.calibration,
        recipe.percentile,
        function="equalized" if recipe.equalize else "as it came",
        batch=_batch(source),
        levels=2**16 if recipe.activation_type in ("int16", "uint16") else 2**8,
    )
    return model, _with_pairs(model, recipe, ranges, operators, excluded)


def _batch(source: SourceModel) -> int:
    return 1 if source.one_at_a_time else CALIBRATION_BATCH


def _with_pairs(
    model: Any,
    recipe: StaticRecipe,
    ranges: Mapping[str, Range],
    operators: Sequence[str],
    excluded: Sequence[str],
) -> Any:
    """A copy with Q/DQ pairs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = [node for node in copy.graph.node if node.op_type in operators and node.name not in excluded]
    known = dict(ranges)
    known |= {inner: ranges[outer] for inner, outer in clipped_inputs(copy, nodes).items() if outer in ranges}
    quantizer = QDQQuantizer(
        copy,
        per_channel=recipe.per_channel,
        reduce_range=recipe.reduce_range,
        weight_qType=_TYPES[recipe.weight_type],
        activation_qType=_TYPES[recipe.activation_type],
        tensors_range=_tensors_data(known),
        nodes_to_quantize=[],
        nodes_to_exclude=list(excluded),
        op_types_to_quantize=list(operators),
        extra_options={
            "ActivationSymmetric": recipe.symmetric_activations,
            "WeightSymmetric": recipe.weight_type == "int8",
            # The standard Q/DQ knows 16 bits from operator set 21 on, ONNX Runtime's own in any.
            "UseQDQContribOps": recipe.name == "static_wi8_ai16" and standard_opset(copy) < 21,
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


def _tensors_data(ranges: Mapping[str, Range]) -> TensorsData:
    data = {name: (np.float32(found.low), np.float32(found.high)) for name, found in ranges.items()}
    return TensorsData(OrtCalibration.MinMax, data)


def _float_nodes(recipe: Recipe, graph: Any) -> tuple[str, ...]:
    """The nodes that the recipe leaves in floating point.

    Raises:
        ModelError: the graph has no such node.
    """
    wanted: tuple[str, ...] = getattr(recipe, "float_nodes", ())
    missing = set(wanted) - {node.name for node in graph.node}
    if missing:
        raise ModelError(
            f"recipe {recipe.name} leaves nodes in floating point that this model does not have: "
            f"{', '.join(sorted(missing)[:5])}"
        )
    return wanted
