"""Models that are harder than a plain stack of layers: branches, loops, tables, dead layers, masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

WIDTH = 32
WORDS = 400


def weights(name: str, *shape: int) -> Any:
    """Small normal numbers, other ones for each name."""
    stream = np.random.default_rng(sum(name.encode()))
    return numpy_helper.from_array((stream.standard_normal(shape) * 0.3).astype(np.float32), name)


def built(
    nodes: Sequence[Any], inputs: Sequence[Any], constants: Sequence[Any], opset: int = 17, width: int = WIDTH
) -> Any:
    """A model with one output, `y` FP32 [batch, width]."""
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])
    graph = helper.make_graph(list(nodes), "odd", list(inputs), [output], list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def vector(name: str = "x") -> Any:
    """FP32 [batch, WIDTH]."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH])


def branching() -> Any:
    """One of two products, by the sign of the input's sum; and one after them."""
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("MatMul", ["x", name], [f"{name}_out"])], name, [], [vector(f"{name}_out")]
        )
        for name in ("then", "else")
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["chosen"], **branches),
        helper.make_node("MatMul", ["chosen", "last"], ["y"]),
    ]
    tables = [weights(name, WIDTH, WIDTH) for name in ("then", "else", "last")]
    return built(nodes, [vector()], [*tables, numpy_helper.from_array(np.float32(0), "zero")])


def looping() -> Any:
    """A product, three times another one, and a third."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "inner"], ["moved"]),
            helper.make_node("Tanh", ["moved"], ["next"]),
            helper.make_node("Identity", ["going"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            vector("state"),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), vector("next")],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["begin"]),
        helper.make_node("Loop", ["turns", "yes", "begin"], ["end"], body=body),
        helper.make_node("MatMul", ["end", "last"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.int64(3), "turns"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    return built(
        nodes, [vector()], [*constants, *(weights(name, WIDTH, WIDTH) for name in ("first", "inner", "last"))]
    )


def embedding(opset: int = 17) -> Any:
    """A table of words that outweighs everything else, positions, a product, the mean; from `ids` INT64."""
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("Add", ["words", "place"], ["placed"]),
        helper.make_node("MatMul", ["placed", "inner"], ["moved"]),
        helper.make_node("Relu", ["moved"], ["positive"]),
        helper.make_node("ReduceMean", ["positive"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "last"], ["y"]),
    ]
    constants = [weights("table", WORDS, WIDTH), weights("place", WIDTH)]
    constants += [weights("inner", WIDTH, WIDTH), weights("last", WIDTH, WIDTH)]
    return built(nodes, [ids], constants, opset)


def dead() -> Any:
    """A Relu that never fires, between products: its tensor is zero for every input."""
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["moved"]),
        helper.make_node("Abs", ["moved"], ["positive"]),
        helper.make_node("Neg", ["positive"], ["negative"]),
        helper.make_node("Relu", ["negative"], ["silent"]),
        helper.make_node("MatMul", ["silent", "inner"], ["nothing"]),
        helper.make_node("Add", ["nothing", "moved"], ["sum"]),
        helper.make_node("MatMul", ["sum", "last"], ["y"]),
    ]
    return built(nodes, [vector()], [weights(name, WIDTH, WIDTH) for name in ("first", "inner", "last")])


def masked(depth: float = -np.inf) -> Any:
    """A mask before a Softmax, as attention has it."""
    mask = np.zeros(WIDTH, np.float32)
    mask[::2] = depth
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["moved"]),
        helper.make_node("Mul", ["moved", "quarter"], ["small"]),
        helper.make_node("Add", ["small", "mask"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"]),
        helper.make_node("MatMul", ["shares", "last"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.float32(0.25), "quarter"),
        numpy_helper.from_array(mask, "mask"),
        *(weights(name, WIDTH, WIDTH) for name in ("first", "last")),
    ]
    return built(nodes, [vector()], constants)


def dividing() -> Any:
    """A division that gives infinity for an input with a zero."""
    nodes = [
        helper.make_node("Reciprocal", ["x"], ["inverse"]),
        helper.make_node("MatMul", ["inverse", "last"], ["y"]),
    ]
    return built(nodes, [vector()], [weights("last", WIDTH, WIDTH)])


def sharing() -> Any:
    """Three products, two sums and two convolutions that have their constants in common."""
    nodes = [
        helper.make_node("Identity", ["x"], ["x0"]),
        *(node for turn in range(3) for node in _turn(turn)),
        helper.make_node("Add", ["x3", "shift"], ["sum"]),
        helper.make_node("Add", ["sum", "shift"], ["total"]),
        helper.make_node("Unsqueeze", ["total", "axis"], ["row"]),
        helper.make_node("Conv", ["row", "kernel"], ["first"], pads=[1, 1]),
        helper.make_node("Conv", ["first", "kernel"], ["second"], pads=[1, 1]),
        helper.make_node("Squeeze", ["second", "axis"], ["y"]),
    ]
    constants = [weights("same", WIDTH, WIDTH), weights("kernel", 1, 1, 3), weights("shift", 1)]
    return built(nodes, [vector()], [*constants, numpy_helper.from_array(np.array([1]), "axis")])


def _turn(turn: int) -> list[Any]:
    return [
        helper.make_node("MatMul", [f"x{turn}", "same"], [f"moved{turn}"]),
        helper.make_node("Tanh", [f"moved{turn}"], [f"x{turn + 1}"]),
    ]
