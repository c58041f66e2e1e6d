"""`.tflite` files as graphs: read and written with the schema that LiteRT ships.

Source: tensorflow/compiler/mlir/lite/schema/schema.fbs, version 3, as Python classes in
`ai_edge_litert.schema_py_generated`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np

from packhorse_host.errors import EnvironmentFaultError
from packhorse_host.quantize.errors import ModelError
from packhorse_host.quantize.graph import KernelCounts

FILE_IDENTIFIER: Final = b"TFL3"
SIGNATURE_KEY: Final = "serving_default"

COMPUTE: Final = frozenset(
    {
        "BATCH_MATMUL", "BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN", "CONV_2D", "CONV_3D",
        "CONV_3D_TRANSPOSE", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "LSTM", "RNN", "SVDF", "TRANSPOSE_CONV",
        "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN",
    }
)  # fmt: skip
"""Operators that multiply and accumulate."""
_INTEGER: Final = frozenset({"INT4", "INT8", "INT16", "UINT4", "UINT8"})


@dataclass(frozen=True)
class Node:
    """One operator of the main graph."""

    operator: str
    name: str
    """Names of the tensors that it makes, joined by `;`: what ai-edge-quantizer calls its scope."""
    input_types: tuple[str, ...]
    """Of the inputs that are there."""
    weight_shape: tuple[int, ...]
    """Of the second input, where there is one."""
    output_shape: tuple[int, ...]
    """Of the first output; a free batch counts as one."""

    @property
    def computes(self) -> bool:
        """Whether it multiplies and accumulates."""
        return self.operator in COMPUTE

    @property
    def is_integer(self) -> bool:
        """Whether its weights are integers when it runs; with float activations it quantizes those itself."""
        return self.computes and len(self.input_types) > 1 and self.input_types[1] in _INTEGER


def read_graph(data: bytes) -> Any:
    """The `ModelT` of a `.tflite` file.

    Raises:
        EnvironmentFaultError: LiteRT is not installed.
        ModelError: not such a file, or damaged.
    """
    schema = _schema()
    if data[4:8] != FILE_IDENTIFIER:
        raise ModelError("not a TensorFlow Lite model: its identifier is missing")
    try:
        model = schema.ModelT.InitFromPackedBuf(data, 0)
    except (AttributeError, IndexError, TypeError, ValueError, struct.error) as error:
        raise ModelError(f"a TensorFlow Lite model, but damaged or truncated ({len(data)} bytes)") from error
    if not model.subgraphs or not model.subgraphs[0].operators:
        raise ModelError("a TensorFlow Lite model without an operator")
    return model


def write_graph(model: Any) -> bytes:
    """The file of a `ModelT`."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def nodes(model: Any) -> Iterator[Node]:
    """Every operator, also those of graphs inside the main one (loops, branches)."""
    types = _names("TensorType")
    for graph in model.subgraphs:
        for operator in graph.operators or ():
            inputs = [graph.tensors[index] for index in operator.inputs if index >= 0]
            outputs = [graph.tensors[index] for index in operator.outputs if index >= 0]
            yield Node(
                operator=_operator_name(model, operator),
                name=";".join(_text(tensor.name) for tensor in outputs),
                input_types=tuple(types[tensor.type] for tensor in inputs),
                weight_shape=_shape(inputs[1]) if len(inputs) > 1 else (),
                output_shape=_shape(outputs[0]) if outputs else (),
            )


def count_integer_kernels(data: bytes) -> KernelCounts:
    """Operators that multiply and accumulate, and how many of them in integers.

    A weight behind a DEQUANTIZE is a float by the time that its operator runs.

    Raises:
        ModelError: not a `.tflite` file.
    """
    compute = [node for node in nodes(read_graph(data)) if node.computes]
    return KernelCounts(sum(node.is_integer for node in compute), len(compute))


def is_quantized(model: Any) -> bool:
    """Whether somebody has quantized it already: a tensor of integers with a scale."""
    integer = {value for value, name in _names("TensorType").items() if name in _INTEGER}
    return any(
        tensor.type in integer and tensor.quantization is not None and _given(tensor.quantization.scale)
        for graph in model.subgraphs
        for tensor in graph.tensors
    )


def widen_half_weights(model: Any) -> int:
    """Turn constants of half precision into FP32 in place; how many there were.

    Quantizers leave such a constant, and the DEQUANTIZE behind it, as they are without a word.
    """
    return sum(_widen_graph(model, graph) for graph in model.subgraphs)


def sign(model: Any, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None) -> None:
    """Give the main graph one SignatureDef, in place.

    Args:
        model: a `ModelT`.
        inputs: names in the order of the graph's inputs; None: the tensors' own.
        outputs: likewise.
    """
    schema, graph = _schema(), model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE_KEY, 0
    signature.inputs = _tensor_map(schema, graph, graph.inputs, inputs)
    signature.outputs = _tensor_map(schema, graph, graph.outputs, outputs)
    model.signatureDefs = [signature]


def shorten_names(model: Any) -> None:
    """Number the tensors instead, in place; a converter's names can outweigh the weights of a small model."""
    for position, graph in enumerate(model.subgraphs):
        for index, tensor in enumerate(graph.tensors):
            tensor.name = f"t{index}" if position == 0 else f"g{position}_t{index}"


def signature_names(model: Any) -> tuple[str, dict[str, str]] | None:
    """Key of the main graph's SignatureDef, and its inputs' names → the tensors' own; None: it has none."""
    tensors = model.subgraphs[0].tensors
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == 0:
            names = {_text(entry.name): _text(tensors[entry.tensorIndex].name) for entry in signature.inputs}
            return _text(signature.signatureKey), names
    return None


def _tensor_map(schema: Any, graph: Any, indexes: Sequence[int], names: Sequence[str] | None) -> list[Any]:
    chosen = names if names is not None else [_text(graph.tensors[index].name) for index in indexes]
    entries = []
    for name, index in zip(chosen, indexes, strict=True):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, int(index)
        entries.append(entry)
    return entries


def _widen_graph(model: Any, graph: Any) -> int:
    types = {name: value for value, name in _names("TensorType").items()}
    kept, halves = [], []
    for operator in graph.operators:
        source = graph.tensors[operator.inputs[0]] if _given(operator.inputs) else None
        half = source is not None and source.type == types["FLOAT16"]
        data: Any = model.buffers[source.buffer].data if half and source is not None else None
        if _operator_name(model, operator) != "DEQUANTIZE" or not _given(data):
            kept.append(operator)
            continue
        values = np.frombuffer(bytes(bytearray(data)), np.float16).astype("<f4")
        target = graph.tensors[operator.outputs[0]]
        target.type, target.quantization = types["FLOAT32"], None
        target.buffer = _add_buffer(model, values)
        halves.append(operator.inputs[0])
    graph.operators = kept
    _drop_constants(model, graph, set(halves))
    return len(halves)


def _drop_constants(model: Any, graph: Any, indexes: set[int]) -> None:
    used = {index for operator in graph.operators for index in operator.inputs}
    for index in indexes - used:
        graph.tensors[index].buffer = 0
    referenced = {tensor.buffer for other in model.subgraphs for tensor in other.tensors}
    for position, buffer in enumerate(model.buffers):
        if position not in referenced and not _is_metadata(model, position):
            buffer.data = None


def _is_metadata(model: Any, buffer: int) -> bool:
    return any(entry.buffer == buffer for entry in model.metadata or ())


def _add_buffer(model: Any, values: Any) -> int:
    buffer = _schema().BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def _operator_name(model: Any, operator: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    return _names("BuiltinOperator").get(max(code.builtinCode, code.deprecatedBuiltinCode), "UNKNOWN")


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(length) for length in tensor.shape) if _given(tensor.shape) else ()


def _given(vector: Any) -> bool:
    return vector is not None and len(vector) > 0


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name or "")


@cache
def _names(enumeration: str) -> dict[int, str]:
    kind = getattr(_schema(), enumeration)
    return {value: name for name, value in vars(kind).items() if isinstance(value, int)}


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise EnvironmentFaultError(
            "packing for LiteRT needs ai-edge-litert and ai-edge-quantizer: "
            "pip install 'packhorse[litert-pack]'"
        ) from error
    return schema_py_generated
