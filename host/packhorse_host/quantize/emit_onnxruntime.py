"""ONNX models for ONNX Runtime on a CPU.

Settings, with the speed of one CNN against its FP32 self that decided for them: Q/DQ pairs with signed
weights per channel and asymmetric activations 3.0 times faster; symmetric activations 2.4 (Relus stay);
QOperator format 0.27; dynamic quantization of convolutions (ConvInteger) 0.19, so that dynamic is for matrix
products only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization import CalibrationMethod as OrtCalibration

from packhorse_agent.contract.recipe import (
    CalibrationMethod,
    DynamicWi8Afp32,
    Fp32,
    Recipe,
    StaticWi8Ai8,
)
from packhorse_agent.runtime.datatypes import Tensors
from packhorse_host.evaluate.samples import Samples
from packhorse_host.quantize.errors import CalibrationNeededError, ModelError
from packhorse_host.quantize.prepare import compact, prepare
from packhorse_host.quantize.source import SourceModel

INTEGER_OPERATORS: Final = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gather", "Gemm", "GlobalAveragePool",
    "LeakyRelu", "MatMul", "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice",
    "Softmax", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where",
)  # fmt: skip
"""Operators that ONNX Runtime runs on 8-bit tensors on a CPU; around any other a Q/DQ pair only costs."""

CALIBRATION_BATCH: Final = 32
"""Samples that run at once: bounds the memory that intermediate tensors take."""

_TYPES: Final = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
_METHODS: Final = {
    CalibrationMethod.MINMAX: OrtCalibration.MinMax,
    CalibrationMethod.PERCENTILE: OrtCalibration.Percentile,
    CalibrationMethod.ENTROPY: OrtCalibration.Entropy,
}
_PROBABILITIES: Final = frozenset({"LogSoftmax", "Sigmoid", "Softmax"})


def emit(source: SourceModel, recipe: Recipe, calibration: Samples | None) -> bytes:
    """Quantize by a recipe; the result is a serialized ONNX model with the source's inputs and outputs.

    The same source, recipe and calibration give the same bytes on one kind of processor.

    Raises:
        CalibrationNeededError: the recipe needs calibration and there is none.
        ModelError: the model does not quantize.
    """
    if isinstance(recipe, Fp32):
        return source.data
    if isinstance(recipe, DynamicWi8Afp32):
        return _quantized(source, _dynamic(recipe))
    if calibration is None:
        raise CalibrationNeededError(f"recipe {recipe.name} needs calibration data")
    return _quantized(source, _static(recipe, source, calibration))


_Quantizer = Callable[[Any, Path], None]


def _quantized(source: SourceModel, quantizer: _Quantizer) -> bytes:
    model = prepare(source)
    with tempfile.TemporaryDirectory(prefix="packhorse-") as folder:
        path = Path(folder) / "quantized.onnx"
        try:
            quantizer(model, path)
        except OSError:
            raise
        except Exception as error:  # whatever a quantizer of graphs raises on a graph it does not expect
            raise ModelError(f"ONNX Runtime does not quantize this model with this data: {error}") from error
        return compact(onnx.load(path))


def _dynamic(recipe: DynamicWi8Afp32) -> _Quantizer:
    def quantize(model: Any, path: Path) -> None:
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=list(recipe.operators),
            per_channel=recipe.per_channel,
            weight_type=QuantType.QInt8,
        )

    return quantize


def _static(recipe: StaticWi8Ai8, source: SourceModel, calibration: Samples) -> _Quantizer:
    def quantize(model: Any, path: Path) -> None:
        quantize_static(
            model,
            path,
            _Reader(calibration, 1 if source.one_at_a_time else CALIBRATION_BATCH),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(recipe.operators or INTEGER_OPERATORS),
            nodes_to_exclude=_final_probabilities(model.graph),
            per_channel=recipe.per_channel,
            reduce_range=recipe.reduce_range,
            activation_type=_TYPES[recipe.activation_type],
            weight_type=_TYPES[recipe.weight_type],
            calibrate_method=_METHODS[recipe.calibration],
            extra_options={
                "ActivationSymmetric": recipe.symmetric_activations,
                "WeightSymmetric": recipe.weight_type == "int8",
                # Batch by batch: all at once holds every intermediate tensor of every sample in memory.
                "CalibStridedMinMax": 1,
            },
        )

    return quantize


def _final_probabilities(graph: Any) -> list[str]:
    """Nodes that turn logits into the output: 256 levels of probability would tie the best classes."""
    outputs = {value.name for value in graph.output}
    return [
        node.name
        for node in graph.node
        if node.op_type in _PROBABILITIES and outputs.intersection(node.output)
    ]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds calibration samples in batches; a range counts batches."""

    def __init__(self, samples: Samples, batch: int) -> None:
        self._samples = samples
        self._batch = batch
        self._feeds: Iterator[Tensors] = iter(())

    def __len__(self) -> int:
        return (self._samples.count + self._batch - 1) // self._batch

    def set_range(self, start_index: int, end_index: int) -> None:
        first, last = start_index * self._batch, end_index * self._batch
        self._feeds = self._samples.batches(self._batch, first, last)

    def get_next(self) -> Tensors | None:
        return next(self._feeds, None)
