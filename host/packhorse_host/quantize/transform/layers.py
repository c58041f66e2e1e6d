"""ONNX graphs seen as linear layers with constant weights, and what lies between them.

Weights of every operator have one form here, `[groups, outputs / groups, inputs / groups, rest]`, so that no
formula has to know how Conv, ConvTranspose, Gemm and MatMul lay out theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx

from packhorse_agent.runtime.datatypes import Array
from packhorse_host.quantize.graph import all_nodes

Floats = npt.NDArray[np.float64]

CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose"})
"""Their channels are axis 1; a matrix product's are the last axis."""


class GraphView:
    """Who makes and who uses each tensor of a model. Holds for as long as nobody rewires the graph."""

    def __init__(self, model: Any) -> None:
        self.graph = model.graph
        self.outputs = frozenset(value.name for value in model.graph.output)
        overridable = {value.name for value in model.graph.input}
        self.constants: dict[str, Any] = {
            tensor.name: tensor for tensor in model.graph.initializer if tensor.name not in overridable
        }
        self.producers = {name: node for node in model.graph.node for name in node.output if name}
        self.consumers: dict[str, list[Any]] = {}
        for node in all_nodes(model.graph):
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    def only_consumer(self, tensor: str) -> Any | None:
        """The one node that uses a tensor, once; None where it branches, is an output, or goes nowhere."""
        users = self.consumers.get(tensor, [])
        return users[0] if len(users) == 1 and tensor not in self.outputs else None

    def floats(self, name: str) -> Floats | None:
        """The values of a constant of type float32, as a copy; None if `name` is anything else."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
            return None
        return np.array(onnx.numpy_helper.to_array(tensor), np.float64, order="C")

    def is_own(self, name: str) -> bool:
        """Whether a constant is used in one place only."""
        return len(self.consumers.get(name, [])) == 1

    def store(self, node: Any, position: int, values: Array) -> None:
        """Make a constant the input of `node` at `position`; other readers of the present one keep that."""
        name = node.input[position] if position < len(node.input) else ""
        tensor = onnx.numpy_helper.from_array(values, name)
        if name and self.is_own(name):
            self.constants[name].CopyFrom(tensor)
            return
        if name:
            self.consumers[name].remove(node)
        tensor.name = self._fresh(f"{node.output[0]}_input{position}")
        self.graph.initializer.append(tensor)
        self.constants[tensor.name] = self.graph.initializer[-1]
        self.consumers[tensor.name] = [node]
        node.input.extend([""] * (position + 1 - len(node.input)))
        node.input[position] = tensor.name

    def _fresh(self, wish: str) -> str:
        taken = {*self.constants, *self.consumers, *self.outputs}
        return next(name for name in _numbered(wish) if name not in taken)


def _numbered(wish: str) -> Iterator[str]:
    yield wish
    number = 2
    while True:
        yield f"{wish}_{number}"
        number += 1


@dataclass(eq=False)
class Layer:
    """A linear operator with a constant weight of its own; the values are copies until `write`."""

    node: Any
    values: Floats
    """The weight as the operator lays it out; `weight` is a view of it."""
    weight: Floats
    """`[groups, outputs / groups, inputs / groups, rest]`."""
    bias: Floats | None
    """`[outputs]`."""
    changed: bool = field(default=False)

    @property
    def outputs(self) -> int:
        """Channels that come out."""
        return int(self.weight.shape[0] * self.weight.shape[1])

    @property
    def inputs(self) -> int:
        """Channels that go in."""
        return int(self.weight.shape[0] * self.weight.shape[2])

    @property
    def is_convolution(self) -> bool:
        """Whether channels are axis 1."""
        return self.node.op_type in CONVOLUTIONS

    def output_ranges(self) -> Floats:
        """Largest absolute weight of each output channel, `[outputs]`."""
        ranges: Floats = np.abs(self.weight).max(axis=(2, 3), initial=0.0).reshape(-1)
        return ranges

    def input_ranges(self) -> Floats:
        """Largest absolute weight of each input channel, `[inputs]`."""
        ranges: Floats = np.abs(self.weight).max(axis=(1, 3), initial=0.0).reshape(-1)
        return ranges

    def scale_outputs(self, factors: Floats) -> None:
        """Multiply each output channel, its bias with it."""
        groups, outputs, *_ = self.weight.shape
        self.weight *= factors.reshape(groups, outputs, 1, 1)
        if self.bias is not None:
            self.bias *= factors
        self.changed = True

    def scale_inputs(self, factors: Floats) -> None:
        """Multiply what each input channel is weighted with."""
        groups, _, inputs, _ = self.weight.shape
        self.weight *= factors.reshape(groups, 1, inputs, 1)
        self.changed = True

    def write(self, view: GraphView) -> None:
        """Put the changed values into the graph."""
        if self.changed:
            view.store(self.node, 1, self.values.astype(np.float32))
            if self.bias is not None:
                view.store(self.node, 2, self.bias.astype(np.float32))


def find_layers(view: GraphView) -> list[Layer]:
    """The layers of the main graph whose weights (float32, finite) nobody else uses, in graph order."""
    found = (_layer(view, node) for node in view.graph.node)
    return [layer for layer in found if layer is not None]


def attribute(node: Any, name: str, default: Any) -> Any:
    """The value of a node's attribute."""
    given = next((entry for entry in node.attribute if entry.name == name), None)
    return default if given is None else onnx.helper.get_attribute_value(given)


def _layer(view: GraphView, node: Any) -> Layer | None:
    arrange = _ARRANGEMENTS.get(node.op_type)
    if arrange is None or node.domain not in ("", "ai.onnx") or len(node.input) < 2:
        return None
    values = view.floats(node.input[1])
    if values is None or not view.is_own(node.input[1]) or not np.isfinite(values).all():
        return None
    weight = arrange(node, values)
    if weight is None or not weight.size:
        return None
    layer = Layer(node, values, weight, None)
    if len(node.input) > 2 and node.input[2]:
        bias = view.floats(node.input[2])
        if bias is None or not _fits(bias, layer.outputs):
            return None
        layer.bias = np.broadcast_to(bias.reshape(-1), (layer.outputs,)).copy()
    return layer


def _fits(bias: Floats, outputs: int) -> bool:
    by_channel = bias.size == outputs and bias.shape[-1] == outputs
    return (bias.size == 1 or by_channel) and bool(np.isfinite(bias).all())


def _conv(node: Any, values: Floats) -> Floats | None:
    groups = attribute(node, "group", 1)
    if values.ndim < 3 or values.shape[0] % groups:
        return None
    weight: Floats = values.reshape(groups, values.shape[0] // groups, values.shape[1], -1)
    return weight


def _conv_transpose(node: Any, values: Floats) -> Floats | None:
    groups = attribute(node, "group", 1)
    if values.ndim < 3 or values.shape[0] % groups:
        return None
    weight = values.reshape(groups, values.shape[0] // groups, values.shape[1], -1)
    turned: Floats = weight.transpose(0, 2, 1, 3)
    return turned


def _gemm(node: Any, values: Floats) -> Floats | None:
    if values.ndim != 2 or attribute(node, "transA", 0):
        return None
    matrix: Floats = values if attribute(node, "transB", 0) else values.T
    return matrix[None, :, :, None]


def _matmul(node: Any, values: Floats) -> Floats | None:
    return values.T[None, :, :, None] if values.ndim == 2 else None


_ARRANGEMENTS: Final[dict[str, Callable[[Any, Floats], Floats | None]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
