"""Nodes that static quantization leaves in floating point in every model."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx

MASK_MAGNITUDE: Final = 9_999
"""Constants beyond it shut something out, as the -10,000, -1e9, -3.4e38 or -infinity of attention masks."""

_PROBABILITIES: Final = frozenset({"LogSoftmax", "Sigmoid", "Softmax"})
_CARRIERS: Final = frozenset(
    {
        "Add", "Cast", "Concat", "Expand", "Gemm", "Max", "Min", "Mul", "Reshape", "Slice", "Squeeze", "Sub",
        "Tile", "Transpose", "Unsqueeze", "Where",
    }
)  # fmt: skip
"""Operators whose output has the magnitude of their inputs (of a Gemm: of its bias)."""


def final_probabilities(graph: Any) -> list[str]:
    """Nodes that turn logits into the output: 256 levels of probability would tie the best classes."""
    outputs = {value.name for value in graph.output}
    return [
        node.name
        for node in graph.node
        if node.op_type in _PROBABILITIES and outputs.intersection(node.output)
    ]


def masking(graph: Any) -> list[str]:
    """Nodes that a mask goes through, up to the one that it is for (a Softmax).

    One scale for the mask and what it leaves would round all that it leaves to one number.
    """
    masked = {tensor.name for tensor in graph.initializer if _is_mask(tensor)}
    found = []
    for node in graph.node:  # in order of the data
        if masked.intersection(node.input):
            found.append(node.name)
            if node.op_type in _CARRIERS:
                masked.update(node.output)
    return found


def _is_mask(tensor: Any) -> bool:
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return False
    return bool((np.abs(onnx.numpy_helper.to_array(tensor)) > MASK_MAGNITUDE).any())
