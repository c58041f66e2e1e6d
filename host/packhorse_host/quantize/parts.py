"""A model of which only some nodes are quantized, cut out of one that is quantized throughout.

Quantizing anew for every group of nodes whose sensitivity is asked takes most of a search; taking the pairs
of the other nodes out again takes none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel

from packhorse_host.quantize.graph import all_nodes

_MOVERS: Final = frozenset(
    {
        "AveragePool", "Flatten", "Gather", "MaxPool", "Pad", "Reshape", "Resize", "Slice", "Split",
        "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Quantized only behind a node that is quantized, with its scale."""
_REMOVED: Final = frozenset({"Clip", "Relu"})
"""The range of the quantized tensor does their work, so that they may be missing."""


def quantized_in_part(float_model: Any, quantized_model: Any, nodes: Collection[str]) -> Any:
    """An `onnx.ModelProto` in which only the nodes named `nodes` are quantized.

    Law: it computes what `float_model` quantized with all other nodes left in floating point computes; only
    where a node reads what a pooling layer or another mover writes, the scale is still that of the mover's
    input.

    Args:
        float_model: with named nodes, in topological order.
        quantized_model: the same with Q/DQ pairs by ONNX Runtime's quantizer, every activation once.
        nodes: to be quantized.
    """
    pairs = _pairs(quantized_model.graph)
    taken = _taken(float_model.graph, quantized_model.graph, pairs, nodes)
    result = onnx.ModelProto()
    result.CopyFrom(quantized_model)
    graph = result.graph
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    merged = _merged(float_model.graph, taken, pairs)
    graph.node.extend([*merged, *_feeding(quantized_model.graph, taken, pairs)])
    # The quantizer gives a dequantized bias the name of the float one.
    written = {name for node in graph.node for name in node.output}
    used = {name for node in all_nodes(graph) for name in node.input}
    used.update(value.name for value in graph.output)
    constants = {
        tensor.name: tensor
        for tensor in (*float_model.graph.initializer, *quantized_model.graph.initializer)
        if tensor.name in used - written
    }
    graph.initializer.extend(constants.values())
    ONNXModel(result).topological_sort()
    return result


@dataclass(frozen=True)
class _Pair:
    """QuantizeLinear and DequantizeLinear of one activation."""

    quantize: Any
    dequantize: Any


@dataclass(frozen=True)
class _Taken:
    """What comes from the quantized graph."""

    nodes: Mapping[str, Any]
    """By name; None for a node that it has no more."""
    touched: Sequence[str]
    """Tensors with pairs, as the float model calls them."""


def _pairs(graph: Any) -> dict[str, _Pair]:
    """By the tensor's name in the float model: a graph's output keeps it behind the pair, others before."""
    outputs = {value.name for value in graph.output}
    sources = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    found = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in sources:
            pair = _Pair(sources[node.input[0]], node)
            behind = node.output[0] in outputs
            found[node.output[0] if behind else pair.quantize.input[0]] = pair
    return found


def _taken(graph: Any, quantized: Any, pairs: Mapping[str, _Pair], nodes: Collection[str]) -> _Taken:
    there = {node.name: node for node in quantized.node}
    named = {
        end: name
        for name, pair in pairs.items()
        for end in (name, pair.quantize.input[0], pair.dequantize.output[0])
    }
    taken: dict[str, Any] = {}
    written: set[str] = set()
    touched: set[str] = set()
    for node in graph.node:
        found = there.get(node.name)
        if found is None and node.op_type in _REMOVED:
            if node.input[0] in written:  # whatever writes the input writes the output now
                taken[node.name] = None
                written.update(node.output)
        elif (
            found is not None
            and node.name in nodes
            and (node.op_type not in _MOVERS or node.input[0] in touched)
        ):
            taken[node.name] = found
            written.update(node.output)
            touched.update(named[end] for end in (*found.input, *found.output) if end in named)
    return _Taken(taken, sorted(touched))


def _merged(graph: Any, taken: _Taken, pairs: Mapping[str, _Pair]) -> list[Any]:
    merged = []
    for node in graph.node:
        if node.name in taken.nodes:
            if taken.nodes[node.name] is not None:
                merged.append(taken.nodes[node.name])
            continue
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        for position, name in enumerate(kept.input):
            if name in taken.touched:
                kept.input[position] = pairs[name].dequantize.output[0]
        for position, name in enumerate(kept.output):
            if name in taken.touched:
                kept.output[position] = pairs[name].quantize.input[0]
        merged.append(kept)
    return merged


def _feeding(quantized: Any, taken: _Taken, pairs: Mapping[str, _Pair]) -> list[Any]:
    """Pairs of touched tensors, and what makes weights and biases of integers."""
    ends = [end for name in taken.touched for end in (pairs[name].quantize, pairs[name].dequantize)]
    nodes = [node for node in taken.nodes.values() if node is not None]
    read = {name for node in (*nodes, *ends) for name in node.input}
    constants = {tensor.name for tensor in quantized.initializer}
    weights = [
        node
        for node in quantized.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants and node.output[0] in read
    ]
    return [*weights, *ends]
