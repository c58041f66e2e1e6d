"""Where Q/DQ pairs go for TensorRT, and what it may make of them. Pure: graphs in, places and counts out.

TensorRT executes what the pairs say and nothing else, so their places decide which kernels are integer.
Source: NVIDIA, TensorRT documentation, "Explicit Quantization", sections "Q/DQ Layer-Placement
Recommendations" and "Q/DQ Limitations"
(docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html):

- All inputs of weighted operations are quantized, their outputs are not: what follows may fuse with them.
- The residual input of a skip connection is quantized, the branch that it joins is not. Only then is the
  output of the convolution that takes in the Add an integer too.
- Operators that commute with rounding (MaxPool, Relu, Transpose and others) need no pair: a quantization
  after them moves before them. Averages do not commute: they get a pair where they stand between
  convolutions that are quantized, so that what flows there are integers.
- The inputs of a Concat that is quantized afterwards get the scale of its output: rounding twice to the same
  steps changes nothing, and nothing is left to be scaled in between.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from packhorse_host.quantize.calibrate.graph import float_tensors
from packhorse_host.quantize.graph import CONVERSIONS, FLOAT_COMPUTE, KernelCounts, all_nodes
from packhorse_host.quantize.transform.layers import CONVOLUTIONS, GraphView

WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators with integer kernels, where their second input is constant."""
OPERATORS: Final = WEIGHTED | {"Add", "AveragePool", "Concat", "GlobalAveragePool"}
"""Operators that get pairs before them."""

_AVERAGES: Final = frozenset({"AveragePool", "GlobalAveragePool"})
_COMMUTING: Final = frozenset(
    {"Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)
_FUSED_BEHIND: Final = frozenset({"Clip", "Relu"})
"""Activations that a convolution takes in."""
_WEIGHT: Final = 1


@dataclass(frozen=True)
class Edge:
    """One input of one node."""

    node: str
    position: int


@dataclass(frozen=True)
class Place:
    """A quantized activation on its way into a node."""

    edge: Edge
    tensor: str
    """What is quantized."""
    scaled_as: str
    """The tensor whose range fixes the scale: itself, but before a Concat."""
    shared: bool
    """Whether one pair serves all such inputs of the tensor; a residual input has its own."""


@dataclass(frozen=True)
class Placement:
    """All pairs of a graph."""

    weights: tuple[Edge, ...]
    activations: tuple[Place, ...]

    @property
    def ranges(self) -> tuple[str, ...]:
        """Tensors whose ranges are needed, each once."""
        return tuple(dict.fromkeys(place.scaled_as for place in self.activations))


def place_pairs(model: Any, operators: Collection[str], excluded: Collection[str]) -> Placement:
    """Where pairs go in a prepared graph.

    Args:
        model: an `onnx.ModelProto` with named nodes and the types of its inner tensors.
        operators: of `OPERATORS`, those that are quantized.
        excluded: names of nodes that are not.
    """
    planner = _Planner(model, operators, excluded)
    weighted = list(planner.weighted())
    places = [Place(Edge(node.name, 0), node.input[0], node.input[0], shared=True) for node in weighted]
    places += planner.residuals()
    places += planner.averages(places)
    places += planner.concats(places)
    return Placement(tuple(Edge(node.name, _WEIGHT) for node in weighted), tuple(places))


def count_quantized(model: Any) -> KernelCounts:
    """Nodes that multiply and accumulate, and those with pairs on both sides of the product.

    Counted in the graph: which kernels an engine has, its builder decides on the device.
    """
    nodes = list(all_nodes(model.graph))
    dequantized = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    compute = [node for node in nodes if node.op_type in FLOAT_COMPUTE]
    quantized = [node for node in compute if dequantized.issuperset(node.input[:2])]
    conversions = sum(node.op_type in CONVERSIONS - {"DequantizeLinear"} for node in nodes)
    return KernelCounts(len(quantized), len(compute), conversions)


class _Planner:
    def __init__(self, model: Any, operators: Collection[str], excluded: Collection[str]) -> None:
        self._view = GraphView(model)
        self._floats = float_tensors(model)
        self._nodes = [
            node
            for node in model.graph.node
            if node.op_type in operators and node.name not in excluded and node.domain in ("", "ai.onnx")
        ]
        self._shapes = {
            value.name: _shape(value)
            for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
        }
        self._depths = _depths(model.graph)
        self._integer_makers = {node.name for node in self.weighted()}

    def weighted(self) -> Iterator[Any]:
        """Products of an activation and a constant matrix or kernel."""
        for node in self._nodes:
            if node.op_type in WEIGHTED and node.input[0] in self._floats:
                values = self._view.floats(node.input[_WEIGHT])
                if values is not None and values.ndim > 1 and values.size and np.isfinite(values).all():
                    yield node

    def residuals(self) -> list[Place]:
        """The skip input of each Add that a quantized convolution can take in."""
        found = []
        for node in self._nodes:
            position = self._skip_position(node) if node.op_type == "Add" else None
            if position is not None:
                self._integer_makers.add(node.name)
                tensor = node.input[position]
                found.append(Place(Edge(node.name, position), tensor, tensor, shared=False))
        return found

    def averages(self, places: Collection[Place]) -> list[Place]:
        """The input of each average that lies between quantized nodes."""
        found: list[Place] = []
        for node in reversed(self._nodes):  # one may follow another
            quantized = {place.edge for place in (*places, *found)}
            if (
                node.op_type in _AVERAGES
                and self._made_of_integers(node.input[0])
                and self._ends_quantized(node.output[0], quantized)
            ):
                found.append(Place(Edge(node.name, 0), node.input[0], node.input[0], shared=True))
        return found

    def concats(self, places: Collection[Place]) -> list[Place]:
        """Every input of each Concat whose output is quantized, and by one scale only."""
        quantized = {place.edge for place in places}
        return [
            Place(Edge(node.name, position), name, node.output[0], shared=False)
            for node in self._nodes
            if node.op_type == "Concat"
            and self._floats.issuperset(node.input)
            and self._only_feeds(node.output[0], quantized)
            for position, name in enumerate(node.input)
        ]

    def _skip_position(self, node: Any) -> int | None:
        """The position of the skip input; None: no residual addition."""
        first, second = node.input
        if first == second or not self._floats.issuperset(node.input):
            return None
        if self._shapes.get(first) != self._shapes.get(second):
            return None
        ends = [self._ends_in_convolution(name) for name in node.input]
        if all(ends):  # the convolution that comes last takes in the Add: the longer branch's
            return 0 if self._depths.get(first, 0) < self._depths.get(second, 0) else 1
        return ends.index(False) if any(ends) else None

    def _ends_in_convolution(self, tensor: str) -> bool:
        maker = self._view.producers.get(tensor)
        return (
            maker is not None
            and maker.op_type in CONVOLUTIONS
            and maker.name in self._integer_makers
            and self._view.only_consumer(tensor) is not None
        )

    def _made_of_integers(self, tensor: str) -> bool:
        """Whether a node that can give integers made it, with nothing in between but what fuses or moves."""
        maker = self._view.producers.get(tensor)
        while maker is not None and maker.op_type in _COMMUTING | _FUSED_BEHIND:
            maker = self._view.producers.get(maker.input[0])
        return maker is not None and maker.name in self._integer_makers

    def _ends_quantized(self, tensor: str, quantized: Collection[Edge]) -> bool:
        """Whether whoever reads it reads it quantized, at once or behind what commutes."""
        readers = self._view.consumers.get(tensor, [])
        return bool(readers) and tensor not in self._view.outputs and all(
            _edges(reader, tensor) <= set(quantized)
            or (reader.op_type in _COMMUTING and self._ends_quantized(reader.output[0], quantized))
            for reader in readers
        )  # fmt: skip

    def _only_feeds(self, tensor: str, quantized: Collection[Edge]) -> bool:
        readers = self._view.consumers.get(tensor, [])
        return bool(readers) and tensor not in self._view.outputs and all(
            _edges(reader, tensor) <= set(quantized) for reader in readers
        )  # fmt: skip


def _edges(node: Any, tensor: str) -> set[Edge]:
    return {Edge(node.name, position) for position, name in enumerate(node.input) if name == tensor}


def _shape(value: Any) -> tuple[int | str, ...] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(axis.dim_param or axis.dim_value for axis in kind.shape.dim)


def _depths(graph: Any) -> dict[str, int]:
    """Tensor → nodes before it, on the longest way."""
    depths: dict[str, int] = {}
    for node in graph.node:  # in order of the data
        depth = 1 + max((depths.get(name, 0) for name in node.input), default=0)
        depths |= dict.fromkeys(node.output, depth)
    return depths
