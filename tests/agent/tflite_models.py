"""Small `.tflite` models, made on the spot with the schema that LiteRT ships."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from packhorse_agent.runtime.datatypes import Array
from tests.agent.models import CLASSES, FEATURES, WEIGHTS

FILE_IDENTIFIER = b"TFL3"


class Builder:
    """One graph: tensors are added, then operators over their indexes."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.description = "test"
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        self.model.signatureDefs = []
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        values: Array | None = None,
        kind: int = schema.TensorType.FLOAT32,
    ) -> int:
        """A tensor, constant where it has values; -1 in its shape is any length. Its index."""
        tensor = schema.TensorT()
        tensor.name, tensor.type = name, kind
        tensor.shape = [abs(length) for length in shape]
        tensor.shapeSignature = list(shape) if -1 in shape else None
        tensor.buffer = 0
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(
        self,
        builtin: int,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: tuple[int, object] | None = None,
        custom: str | None = None,
    ) -> None:
        """An operator of a code of its own."""
        code = schema.OperatorCodeT()
        code.builtinCode, code.version = builtin, 1
        code.deprecatedBuiltinCode = min(builtin, 127)
        code.customCode = custom
        self.model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            operator.builtinOptionsType, operator.builtinOptions = options
        self.graph.operators.append(operator)

    def signature(self, inputs: dict[str, int], outputs: dict[str, int]) -> None:
        """Names for the tensors of the graph."""
        definition = schema.SignatureDefT()
        definition.signatureKey, definition.subgraphIndex = "serving_default", 0
        definition.inputs = [_mapped(name, index) for name, index in inputs.items()]
        definition.outputs = [_mapped(name, index) for name, index in outputs.items()]
        self.model.signatureDefs.append(definition)

    def finished(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The file."""
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())


def linear_tflite(
    weights: Array = WEIGHTS,
    batch: int = -1,
    *,
    signature: bool = True,
    kind: int = schema.TensorType.FLOAT32,
) -> bytes:
    """`scores = x @ weights`, x being FP32 [batch, FEATURES]; the twin of `linear_model`."""

    def build(model: Builder) -> tuple[dict[str, int], dict[str, int]]:
        x = model.tensor("x_tensor", [batch, weights.shape[0]], kind=kind)
        matrix = model.tensor("weights", weights.T.shape, np.ascontiguousarray(weights.T))
        scores = model.tensor("scores_tensor", [batch, weights.shape[1]])
        model.operator(
            schema.BuiltinOperator.FULLY_CONNECTED,
            [x, matrix, -1],
            [scores],
            (schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT()),
        )
        return {"x": x}, {"scores": scores}

    return built(build, signature=signature)


def sum_tflite() -> bytes:
    """`c = a + b`, all FP32 [-1, 2], declared in the order b, a."""

    def build(model: Builder) -> tuple[dict[str, int], dict[str, int]]:
        b, a, c = (model.tensor(name, [-1, 2]) for name in ("tensor_b", "tensor_a", "tensor_c"))
        options = (schema.BuiltinOptions.AddOptions, schema.AddOptionsT())
        model.operator(schema.BuiltinOperator.ADD, [a, b], [c], options)
        return {"b": b, "a": a}, {"c": c}

    return built(build)


def custom_tflite() -> bytes:
    """One operator that nobody knows."""

    def build(model: Builder) -> tuple[dict[str, int], dict[str, int]]:
        x, y = model.tensor("x", [1, FEATURES]), model.tensor("y", [1, CLASSES])
        model.operator(schema.BuiltinOperator.CUSTOM, [x], [y], custom="Zaubern")
        return {"x": x}, {"y": y}

    return built(build)


def built(
    build: Callable[[Builder], tuple[dict[str, int], dict[str, int]]], *, signature: bool = True
) -> bytes:
    """The file of a graph that `build` adds to a builder; it returns the names of inputs and outputs."""
    model = Builder()
    inputs, outputs = build(model)
    if signature:
        model.signature(inputs, outputs)
    return model.finished(list(inputs.values()), list(outputs.values()))


def _mapped(name: str, index: int) -> schema.TensorMapT:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry
