"""Batch normalisation folded into the layer before it.

ONNX Runtime's own optimizer folds into Conv only, so transposed convolutions and matrix products come here
with theirs. Formula: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx

from packhorse_host.quantize.transform.layers import Floats, GraphView, attribute, find_layers

_EPSILON: Final = 1e-5
"""What the operator takes where none is written."""


@dataclass(frozen=True)
class BatchNorm:
    """What a BatchNormalization node was trained to, `[channels]` each."""

    node: Any
    scale: Floats
    shift: Floats
    mean: Floats
    """Of the node's input."""
    variance: Floats
    """Of the node's input, epsilon in it."""


def read_batch_norm(view: GraphView, node: Any) -> BatchNorm | None:
    """The node as a `BatchNorm`; None if it is something else, still training, or not constant."""
    if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
        return None
    if attribute(node, "training_mode", 0) or len([name for name in node.output if name]) != 1:
        return None
    parts = [part for part in map(view.floats, node.input[1:5]) if part is not None]
    if len(parts) != 4 or not all(np.isfinite(part).all() for part in parts):
        return None
    scale, shift, mean, variance = parts
    if (variance < 0).any():
        return None
    return BatchNorm(node, scale, shift, mean, variance + attribute(node, "epsilon", _EPSILON))


def fold_batch_norms(model: Any) -> Any:
    """A copy of an `onnx.ModelProto` in which no layer is followed by a batch normalisation of its own."""
    model = _copy(model)
    view = GraphView(model)
    # Looked for first: layers come with a copy of their weights.
    normal = any(node.op_type == "BatchNormalization" for node in model.graph.node)
    for layer in find_layers(view) if normal else ():
        node = view.only_consumer(layer.node.output[0])
        norm = read_batch_norm(view, node) if node is not None else None
        if norm is None or norm.scale.size != layer.outputs or layer.node.op_type == "MatMul":
            continue
        factors = norm.scale / np.sqrt(norm.variance)
        bias = np.zeros(layer.outputs) if layer.bias is None else layer.bias
        beta = attribute(layer.node, "beta", 1.0)
        if layer.node.op_type == "Gemm" and beta != 1.0:
            continue
        layer.bias = bias - norm.mean
        layer.scale_outputs(factors)
        layer.bias += norm.shift
        layer.write(view)
        layer.node.output[0] = norm.node.output[0]
        model.graph.node.remove(norm.node)
    return model


def _copy(model: Any) -> Any:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied
