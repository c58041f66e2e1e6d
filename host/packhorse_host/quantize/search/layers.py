"""What of a prepared graph can be quantized, in layers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from typing import Any, Final

from packhorse_host.quantize.search.bench import Layer

_FUSED: Final = frozenset({"Clip", "Relu"})
"""Activations that runtimes fuse into the integer kernel before them."""
_WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def layers_of(model: Any, operators: Collection[str]) -> tuple[Layer, ...]:
    """Layers of the `onnx.ModelProto` that `prepare` makes, of the operators that can be quantized."""
    graph = model.graph
    shapes = _shapes(graph)
    consumers = Counter(name for node in graph.node for name in node.input)
    consumers.update(value.name for value in graph.output)
    grouped: dict[str, list[Any]] = {}
    owner: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in operators:
            continue
        before = owner.get(node.input[0]) if node.op_type in _FUSED and node.input else None
        if before is not None and consumers[node.input[0]] == 1:
            grouped[before].append(node)
        else:
            before = node.name
            grouped[before] = [node]
        if grouped[before][0].op_type in _WEIGHTED:
            owner.update(dict.fromkeys(node.output, before))
    return tuple(
        Layer(
            tuple(node.name for node in nodes),
            tuple(node.op_type for node in nodes),
            _cost(nodes[0], shapes),
        )
        for nodes in grouped.values()
    )


def _shapes(graph: Any) -> dict[str, list[int]]:
    """Shapes by tensor; a free axis counts as one."""
    known: dict[str, list[int]] = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        known[value.name] = [max(1, axis.dim_value) for axis in value.type.tensor_type.shape.dim]
    return known


def _cost(node: Any, shapes: dict[str, list[int]]) -> float:
    elements = float(sum(math.prod(shapes.get(name, [1])) for name in node.output))
    weights = shapes.get(node.input[1], []) if len(node.input) > 1 else []
    if node.op_type in ("Conv", "ConvTranspose") and weights:
        return elements * math.prod(weights[1:])
    if node.op_type in ("Gemm", "MatMul"):
        return elements * max(1, (shapes.get(node.input[0]) or [1])[-1])
    return elements
