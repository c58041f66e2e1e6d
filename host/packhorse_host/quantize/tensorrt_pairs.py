"""Q/DQ pairs in a graph, as TensorRT takes them: signed 8 bits, symmetric, all zero points 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from packhorse_agent.runtime.datatypes import Array
from packhorse_host.quantize.calibrate.observer import Range
from packhorse_host.quantize.graph import all_nodes
from packhorse_host.quantize.tensorrt_graph import Edge, Place, Placement
from packhorse_host.quantize.transform.layers import attribute

LARGEST: Final = 127
"""-128 stands for nothing, so that both signs have the same steps."""
_SMALLEST_SCALE: Final = float(np.finfo(np.float32).tiny)
_OWN: Final = "packhorse"
_ZERO: Final = f"{_OWN}/zero"
_BIAS: Final = 2
_WITH_BIAS: Final = frozenset({"Conv", "ConvTranspose", "Gemm"})

_Floats = npt.NDArray[np.float32]


def insert_pairs(model: Any, placement: Placement, ranges: Mapping[str, Range], *, per_channel: bool) -> Any:
    """A copy with pairs: weights become integers, activations go through QuantizeLinear and back.

    Names of nodes stay.

    Args:
        model: an `onnx.ModelProto` in which no two quantized nodes share a weight.
        ranges: of `placement.ranges`.
        per_channel: a scale for each output channel of a weight.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    writer = _Writer(copy.graph, ranges)
    weights = set(placement.weights)
    activations = {place.edge: place for place in placement.activations}
    for node in list(copy.graph.node):
        for position, name in enumerate(node.input):
            edge = Edge(node.name, position)
            if edge in weights:
                axis = channel_axis(node, writer.shape(name)) if per_channel else None
                node.input[position] = writer.weight(name, axis)
            elif edge in activations:
                node.input[position] = writer.activation(activations[edge])
        writer.nodes.append(node)
    writer.finish()
    return copy


def symmetric_scale(found: Range) -> float:
    """Real value of one step: `max(|low|, |high|) / 127`; 1 where nothing but zero was seen."""
    largest = max(abs(found.low), abs(found.high))
    return max(largest / LARGEST, _SMALLEST_SCALE) if largest else 1.0


def channel_axis(node: Any, shape: tuple[int, ...]) -> int | None:
    """The axis of a weight that counts output channels; None where no axis does.

    0 for Conv, 1 for ConvTranspose without groups, whichever is not summed over in a product of matrices.
    """
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if attribute(node, "group", 1) == 1 else None
    if len(shape) != 2:
        return None
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 1


def with_biases(model: Any, placement: Placement) -> None:
    """Give quantized nodes without a bias one of zeros, in place, so that it can be corrected in float."""
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    quantized = {edge.node for edge in placement.weights}
    for node in graph.node:
        if node.name in quantized and node.op_type in _WITH_BIAS and not any(node.input[_BIAS:]):
            name = f"{_OWN}/{node.name}/bias"
            zeros = np.zeros(_channels(node, shapes[node.input[1]]), np.float32)
            graph.initializer.append(numpy_helper.from_array(zeros, name))
            del node.input[_BIAS:]
            node.input.append(name)


def _channels(node: Any, shape: tuple[int, ...]) -> int:
    if node.op_type == "ConvTranspose":
        return shape[1] * int(attribute(node, "group", 1))
    return shape[1] if node.op_type == "Gemm" and not attribute(node, "transB", 0) else shape[0]


class _Writer:
    """Builds the new order of nodes; each pair stands before its first reader."""

    def __init__(self, graph: Any, ranges: Mapping[str, Range]) -> None:
        self.nodes: list[Any] = []
        self._graph = graph
        self._ranges = ranges
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._made: dict[str, str] = {}
        self._constant(_ZERO, np.zeros((), np.int8))

    def shape(self, constant: str) -> tuple[int, ...]:
        return tuple(self._tensors[constant].dims)

    def weight(self, name: str, axis: int | None) -> str:
        """The name of the weight, dequantized."""
        values: _Floats = numpy_helper.to_array(self._tensors[name]).astype(np.float32)
        others = tuple(other for other in range(values.ndim) if other != axis)
        magnitude = (
            np.abs(values).max(axis=others, keepdims=True) if axis is not None else np.abs(values).max()
        )
        scale = np.where(magnitude > 0, np.maximum(magnitude / LARGEST, _SMALLEST_SCALE), 1)
        scale = scale.astype(np.float32)
        steps = np.clip(np.rint(values / scale), -LARGEST, LARGEST).astype(np.int8)
        prefix = f"{_OWN}/{name}"
        self._constant(f"{prefix}/int8", steps)
        self._constant(f"{prefix}/scale", scale.reshape(-1) if axis is not None else scale.reshape(()))
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        # Zero points may be left out or shared, but not with ONNX Runtime's exact kernels on x86: it puts one
        # of the wrong length there, or does not load the model.
        self._constant(f"{prefix}/zero", np.zeros(scale.shape if axis is None else scale.size, np.int8))
        inputs = [f"{prefix}/{part}" for part in ("int8", "scale", "zero")]
        return self._add("DequantizeLinear", inputs, f"{prefix}/weight", **attributes)

    def activation(self, place: Place) -> str:
        """The name of the activation after its pair."""
        own = "" if place.shared else f"{place.edge.node}/{place.edge.position}/"
        prefix = f"{_OWN}/{own}{place.tensor}"
        if prefix not in self._made:
            scale = np.array(symmetric_scale(self._ranges[place.scaled_as]), np.float32)
            self._constant(f"{prefix}/scale", scale)
            numbers = [f"{prefix}/scale", _ZERO]
            integers = self._add("QuantizeLinear", [place.tensor, *numbers], f"{prefix}/quantized")
            self._made[prefix] = self._add("DequantizeLinear", [integers, *numbers], f"{prefix}/real")
        return self._made[prefix]

    def finish(self) -> None:
        """Put nodes and constants into the graph; constants that nobody reads any more go."""
        graph = self._graph
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self.nodes)
        used = {name for node in all_nodes(graph) for name in node.input}
        used |= {value.name for value in graph.output}
        graph.initializer.extend(tensor for name, tensor in self._tensors.items() if name in used)

    def _add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def _constant(self, name: str, values: Array) -> None:
        self._tensors[name] = numpy_helper.from_array(values, name)
