"""What packing needs of a runtime, behind one port; one class for each form of model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

from packhorse_agent.contract.profile import RuntimeName
from packhorse_agent.contract.recipe import Recipe
from packhorse_host.convert.model import FloatModel
from packhorse_host.evaluate.samples import Samples
from packhorse_host.quantize import emit_litert, emit_onnxruntime, emit_tensorrt
from packhorse_host.quantize.graph import Architecture, KernelCounts, count_kernels
from packhorse_host.quantize.litert_graph import count_integer_kernels
from packhorse_host.quantize.prepare import prepare
from packhorse_host.quantize.search.bench import Layer, StaticRecipe
from packhorse_host.quantize.search.layers import layers_of
from packhorse_host.quantize.search.litert_layers import litert_layers
from packhorse_host.quantize.source import SourceModel
from packhorse_host.quantize.tensorrt_graph import OPERATORS


class Emitter(Protocol):
    """Quantizes one float model for one runtime."""

    @property
    def source(self) -> FloatModel:
        """The float model."""

    @property
    def model_file(self) -> str:
        """What the model artifact is called."""

    @property
    def tools(self) -> tuple[str, ...]:
        """Distributions whose versions go into the manifest."""

    def emit(self, recipe: Recipe, calibration: Samples | None) -> bytes:
        """The model by a recipe.

        Raises:
            CalibrationNeededError, ModelError, UnsupportedRecipeError, UselessQuantizationError: as the
                emitter of the runtime says.
        """

    def count_kernels(self, model: bytes, architecture: Architecture) -> KernelCounts:
        """What the runtime makes of a model on an architecture."""

    def layers(self) -> tuple[Layer, ...]:
        """What can be quantized or left in floating point by name."""


@runtime_checkable
class PartEmitter(Protocol):
    """An emitter that quantizes a part of a model far faster than by a recipe that names the rest."""

    def emit_part(self, recipe: StaticRecipe, calibration: Samples, nodes: Collection[str]) -> bytes:
        """The model with only `nodes` of what the recipe quantizes; good for measuring only.

        Raises:
            ActivationError, ModelError: as the emitter of the runtime says.
        """


@dataclass(frozen=True)
class OnnxRuntimeEmitter:
    """ONNX models for ONNX Runtime."""

    source: FloatModel
    model_file: str = "model.onnx"
    tools: tuple[str, ...] = ("packhorse", "numpy", "onnx", "onnxruntime")
    _memory: emit_onnxruntime.Memory = field(default_factory=emit_onnxruntime.Memory, compare=False)

    def emit(self, recipe: Recipe, calibration: Samples | None) -> bytes:
        """See `emit_onnxruntime.emit`."""
        return emit_onnxruntime.emit(self._model, recipe, calibration, self._memory)

    def emit_part(self, recipe: StaticRecipe, calibration: Samples, nodes: Collection[str]) -> bytes:
        """See `emit_onnxruntime.emit_part`."""
        return emit_onnxruntime.emit_part(self._model, recipe, calibration, nodes, self._memory)

    def count_kernels(self, model: bytes, architecture: Architecture) -> KernelCounts:
        """After fusion, for the architecture."""
        return count_kernels(model, architecture)

    def layers(self) -> tuple[Layer, ...]:
        """Of the prepared graph."""
        return layers_of(prepare(self._model), emit_onnxruntime.INTEGER_OPERATORS)

    @property
    def _model(self) -> SourceModel:
        return _onnx(self.source)


@dataclass(frozen=True)
class TensorRtEmitter:
    """ONNX models with explicit pairs for TensorRT."""

    source: FloatModel
    model_file: str = "model.onnx"
    tools: tuple[str, ...] = ("packhorse", "numpy", "onnx", "onnxruntime")

    def emit(self, recipe: Recipe, calibration: Samples | None) -> bytes:
        """See `emit_tensorrt.emit`."""
        return emit_tensorrt.emit(_onnx(self.source), recipe, calibration)

    def count_kernels(self, model: bytes, _: Architecture) -> KernelCounts:
        """By the pairs in the graph: there is no engine here."""
        return emit_tensorrt.count_kernels(model)

    def layers(self) -> tuple[Layer, ...]:
        """Of the prepared graph."""
        return layers_of(prepare(_onnx(self.source)), tuple(OPERATORS))


@dataclass(frozen=True)
class LitertEmitter:
    """`.tflite` models for LiteRT."""

    source: FloatModel
    model_file: str = "model.tflite"
    tools: tuple[str, ...] = ("packhorse", "numpy", "ai-edge-litert", "ai-edge-quantizer")

    def emit(self, recipe: Recipe, calibration: Samples | None) -> bytes:
        """See `emit_litert.emit`."""
        return emit_litert.emit(self.source, recipe, calibration)

    def count_kernels(self, model: bytes, _: Architecture) -> KernelCounts:
        """LiteRT runs the operators of the file: no architecture fuses them otherwise."""
        return count_integer_kernels(model)

    def layers(self) -> tuple[Layer, ...]:
        """Its operators that compute."""
        return litert_layers(self.source.data)


_EMITTERS: Final[Mapping[RuntimeName, Callable[[FloatModel], Emitter]]] = MappingProxyType(
    {"onnxruntime": OnnxRuntimeEmitter, "litert": LitertEmitter, "tensorrt": TensorRtEmitter}
)


def emitter_for(source: FloatModel) -> Emitter:
    """The emitter of the runtime that a float model is for, one of `recipes.PACKABLE_RUNTIMES`."""
    return _EMITTERS[source.runtime](source)


def _onnx(source: FloatModel) -> SourceModel:
    return SourceModel(source.data, source.sha256, source.inputs, source.outputs)
