"""Constants of trained graphs as runtimes want them.

Runtimes run a layer in integers only when its bias is one too. And ONNX Runtime on x86 turns signed weights
to unsigned ones, zero points with them, and fails on a zero point that two weights share.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from packhorse_agent.runtime.datatypes import Array

_LAYERS = ("Conv", "ConvTranspose", "Gemm")


def quantize_biases(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which each float bias beside a quantized input and weight is INT32 behind a DequantizeLinear.

    The scale is that of the input times that of the weight, so that a sum of products and the bias add up as
    integers; a layer whose scales are not constant is left as it is.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in list(graph.node):
        if node.op_type in _LAYERS and len(node.input) > 2 and node.input[2] in constants:
            scale = _scale(node, pairs, constants)
            if scale is not None:
                _replace(graph, node, constants[node.input[2]], scale)
    _drop_unused(graph)
    return copy


def separate_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which each quantized weight has a scale and a zero point of its own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in copy.graph.initializer}
    taken: set[str] = set()
    for node in copy.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in constants:
            continue
        for place, name in enumerate(node.input[1:], start=1):
            if name in taken and name in constants:
                tensor = copy.graph.initializer.add()
                tensor.CopyFrom(constants[name])
                tensor.name = node.input[place] = f"{name}_of_{node.output[0]}"
            taken.add(name)
    return copy


def _scale(node: Any, pairs: dict[str, Any], constants: dict[str, Array]) -> Array | None:
    found = [pairs.get(name) for name in node.input[:2]]
    scales = [constants.get(pair.input[1]) if pair is not None else None for pair in found]
    if scales[0] is None or scales[1] is None:
        return None
    product: Array = (scales[0].astype(np.float64) * scales[1].astype(np.float64)).astype(np.float32)
    return product


def _replace(graph: Any, node: Any, bias: Array, scale: Array) -> None:
    per_channel = scale.size == bias.size
    scale = scale.reshape(-1) if per_channel else scale.reshape(())
    rounded = np.clip(np.rint(bias / scale.astype(np.float64)), -(2**31), 2**31 - 1).astype(np.int32)
    name = f"{node.output[0]}_bias"
    zero = np.zeros(scale.shape, np.int32)
    for suffix, array in (("quantized", rounded), ("scale", scale), ("zero_point", zero)):
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), f"{name}_{suffix}"))
    parts = [f"{name}_quantized", f"{name}_scale", f"{name}_zero_point"]
    pair = helper.make_node("DequantizeLinear", parts, [name], f"{name}_dequantize")
    if per_channel:
        pair.attribute.append(helper.make_attribute("axis", 0))
    graph.node.insert(list(graph.node).index(node), pair)
    node.input[2] = name


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
