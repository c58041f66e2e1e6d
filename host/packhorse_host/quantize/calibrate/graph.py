"""Graphs that show what flows inside them: a model with inner tensors, or facts about them, as outputs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import onnx
from onnx import TensorProto, helper

_FLOATS: Final = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})

_OWN: Final = "packhorse"
"""Beginning of the names of what is added here."""


def range_tensors(model: Any, operators: Collection[str], excluded: Collection[str]) -> list[str]:
    """Floating-point tensors that go in or out of nodes that will be quantized, in order of the graph.

    The input of a Relu or Clip that nobody else reads is left out: it takes the range of the output.

    Args:
        model: an `onnx.ModelProto` with the types of its inner tensors.
        operators: the types of operators that are quantized.
        excluded: names of nodes that are not.
    """
    nodes = [node for node in model.graph.node if node.op_type in operators and node.name not in excluded]
    wanted = {name for node in nodes for name in (*node.input, *node.output)} & float_tensors(model)
    wanted -= set(clipped_inputs(model, nodes))
    ordered = [value.name for value in model.graph.input]
    ordered += [name for node in model.graph.node for name in node.output]
    return [name for name in dict.fromkeys(ordered) if name in wanted]


def clipped_inputs(model: Any, nodes: Iterable[Any]) -> dict[str, str]:
    """Input → output of each Relu or Clip among `nodes` whose input nobody else reads."""
    readers: dict[str, int] = {}
    for name in (name for node in model.graph.node for name in node.input):
        readers[name] = readers.get(name, 0) + 1
    shown = {value.name for value in (*model.graph.input, *model.graph.output)}
    return {
        node.input[0]: node.output[0]
        for node in nodes
        if node.op_type in ("Clip", "Relu") and readers[node.input[0]] == 1 and node.input[0] not in shown
    }


def float_tensors(model: Any) -> set[str]:
    """Names of the tensors in floating point that are not constant."""
    graph = model.graph
    values = (*graph.value_info, *graph.input, *graph.output)
    constants = {tensor.name for tensor in graph.initializer}
    return {value.name for value in values if value.type.tensor_type.elem_type in _FLOATS} - constants


def showing(model: Any, tensors: Sequence[str]) -> Any:
    """A copy with `tensors` as its only outputs."""
    return _with_outputs(model, tensors, [])


def showing_sizes(model: Any, tensors: Sequence[str]) -> Any:
    """A copy whose only outputs are how many elements each of `tensors` has, as int64 scalars."""
    nodes = [helper.make_node("Size", [name], [f"{_OWN}/{name}/size"]) for name in tensors]
    return _with_outputs(model, [node.output[0] for node in nodes], nodes)


def showing_extremes(model: Any, tensors: Sequence[str]) -> Any:
    """A copy whose only outputs are smallest, largest and sum of each of `tensors`, three by three.

    Smallest and largest may hide NaN, by the standard; a sum does not. In single precision, whatever the
    tensor's.
    """
    nodes, outputs = [], []
    for name in tensors:
        single = f"{_OWN}/{name}/single"
        nodes.append(helper.make_node("Cast", [name], [single], to=TensorProto.FLOAT))
        for operator in ("ReduceMin", "ReduceMax", "ReduceSum"):
            outputs.append(f"{_OWN}/{name}/{operator}")
            nodes.append(helper.make_node(operator, [single], [outputs[-1]], keepdims=0))
    return _with_outputs(model, outputs, nodes)


def _with_outputs(model: Any, outputs: Sequence[str], nodes: Sequence[Any]) -> Any:
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.node.extend(nodes)
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return shown
