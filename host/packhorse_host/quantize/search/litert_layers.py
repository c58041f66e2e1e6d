"""What of a `.tflite` graph can be quantized or left in floating point by name, in layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from packhorse_host.quantize.litert_graph import Node, nodes, read_graph
from packhorse_host.quantize.search.bench import Layer

_OPERATORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "BATCH_MATMUL": "MatMul",
        "CONV_2D": "Conv",
        "DEPTHWISE_CONV_2D": "Conv",
        "FULLY_CONNECTED": "Gemm",
        "TRANSPOSE_CONV": "Conv",
    }
)
"""Operators of LiteRT as recipes name them."""
_NAME_MAX: Final = 256
"""Longer names cannot stand in a recipe (`contract.recipe.NodeName`)."""


def litert_layers(data: bytes) -> tuple[Layer, ...]:
    """Each operator that computes is a layer of its own: activations are fused into it in the file already.

    Raises:
        ModelError: not a `.tflite` file.
    """
    return tuple(
        Layer((node.name,), (_OPERATORS[node.operator],), _cost(node))
        for node in nodes(read_graph(data))
        if node.operator in _OPERATORS and len(node.name) <= _NAME_MAX
    )


def _cost(node: Node) -> float:
    """Multiply-accumulates of one sample; weights are [out, height, width, in] or [1, height, width, out]."""
    last = 3 if node.operator == "DEPTHWISE_CONV_2D" else None
    return float(math.prod(node.output_shape) * math.prod(node.weight_shape[1:last]))
