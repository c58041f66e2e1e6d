"""Where a layer of a Q/DQ model keeps its bias, and how to move it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import onnx

from packhorse_agent.runtime.datatypes import Array
from packhorse_host.quantize.transform.layers import Floats, GraphView, attribute

_INT32: Final = np.iinfo(np.int32)
_WITH_BIAS: Final = frozenset({"Conv", "ConvTranspose", "Gemm"})
_BIAS: Final = 2
"""The position of the bias among a layer's inputs."""


class Bias(Protocol):
    """The bias of one layer."""

    def move(self, shift: Floats) -> None:
        """Add to each channel, `[channels]`."""


def find_bias(view: GraphView, node: Any) -> Bias | None:
    """The bias of a layer with quantized weights; None where there is none and none can be had.

    A MatMul has one only where an Add of a constant in floating point follows: there is no integer kernel for
    a MatMul with a bias, and a constant of 8 bits is coarser than what is to be corrected.
    """
    weight = constant_dequantizer(view, node.input[1]) if len(node.input) > 1 else None
    if weight is None:
        return None
    if node.op_type == "MatMul":
        return _added_behind(view, node)
    if node.op_type not in _WITH_BIAS or attribute(node, "beta", 1.0) != 1.0:
        return None
    name = node.input[_BIAS] if len(node.input) > _BIAS else ""
    if not name:
        return _missing(view, node, weight)
    if view.floats(name) is not None:
        return _FloatBias(view, node, _BIAS)
    dequantizer = constant_dequantizer(view, name)
    if dequantizer is None or view.only_consumer(name) is None or view.floats(dequantizer.input[1]) is None:
        return None
    return _IntegerBias(view, dequantizer)


def constant_dequantizer(view: GraphView, tensor: str) -> Any | None:
    """The DequantizeLinear that makes `tensor` of constants."""
    node = view.producers.get(tensor)
    if node is None or node.op_type != "DequantizeLinear" or node.input[0] not in view.constants:
        return None
    return node


@dataclass(frozen=True)
class _FloatBias:
    view: GraphView
    node: Any
    position: int

    def move(self, shift: Floats) -> None:
        present = self.node.input[self.position] if self.position < len(self.node.input) else ""
        values = self.view.floats(present)
        moved = shift if values is None else values + shift
        self.view.store(self.node, self.position, moved.astype(np.float32))


@dataclass(frozen=True)
class _IntegerBias:
    view: GraphView
    dequantizer: Any

    def move(self, shift: Floats) -> None:
        scale = self.view.floats(self.dequantizer.input[1])
        assert scale is not None  # noqa: S101
        values = onnx.numpy_helper.to_array(self.view.constants[self.dequantizer.input[0]])
        self.view.store(self.dequantizer, 0, _steps(values * scale + shift, scale))


@dataclass(frozen=True)
class _MissingBias:
    """A convolution without a bias: it gets one in 32 bits, which its integer kernel takes."""

    view: GraphView
    node: Any
    scale: Floats
    """Of the input times that of the weights, `[channels]`: what the kernel accumulates in."""
    domain: str

    def move(self, shift: Floats) -> None:
        output = f"{self.node.output[0]}/bias"
        names = {part: f"{output}_{part}" for part in ("quantized", "scale")}
        steps = _steps(shift, self.scale)
        for part, values in (("quantized", steps), ("scale", self.scale.astype(np.float32))):
            self.view.graph.initializer.append(onnx.numpy_helper.from_array(values, names[part]))
        dequantizer = onnx.helper.make_node(
            "DequantizeLinear", list(names.values()), [output], f"{output}_DequantizeLinear",
            domain=self.domain, axis=0,
        )  # fmt: skip
        self.view.graph.node.insert(0, dequantizer)
        del self.node.input[_BIAS:]
        self.node.input.append(output)


def _missing(view: GraphView, node: Any, weight: Any) -> Bias | None:
    activation = view.producers.get(node.input[0])
    if activation is None or activation.op_type != "DequantizeLinear":
        return _FloatBias(view, node, _BIAS)
    scales = view.floats(activation.input[1]), view.floats(weight.input[1])
    channels = _channels(view, node, weight)
    if scales[0] is None or scales[1] is None or scales[0].size != 1 or scales[1].size not in (1, channels):
        return None
    scale = np.broadcast_to(scales[0].reshape(-1) * scales[1].reshape(-1), (channels,)).copy()
    return _MissingBias(view, node, scale, weight.domain)


def _channels(view: GraphView, node: Any, weight: Any) -> int:
    dims = view.constants[weight.input[0]].dims
    if node.op_type == "ConvTranspose":
        return int(dims[1] * attribute(node, "group", 1))
    return int(dims[0] if node.op_type == "Conv" or attribute(node, "transB", 0) else dims[-1])


def _added_behind(view: GraphView, node: Any) -> Bias | None:
    addition = view.only_consumer(node.output[0])
    if addition is None or addition.op_type != "Add":
        return None
    position = 1 if addition.input[0] == node.output[0] else 0
    values = view.floats(addition.input[position])
    return _FloatBias(view, addition, position) if values is not None and values.ndim == 1 else None


def _steps(values: Floats, scale: Floats) -> Array:
    # A scale of zero belongs to a channel without weights, whose bias cannot be written.
    steps = np.divide(values, scale, out=np.zeros_like(values), where=scale > 0)
    return np.clip(np.rint(steps), _INT32.min, _INT32.max).astype(np.int32)
