"""Random float graphs and what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from packhorse_agent.runtime.datatypes import Array

SIDE = 6
INPUTS = 3


@dataclass
class Chain:
    """A graph that grows at its end."""

    random: np.random.Generator
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    end: str = "image"
    channels: int = INPUTS
    flat: bool = False

    def constant(self, values: Any, name: str | None = None) -> str:
        name = name or f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, operator: str, *others: str, **attributes: Any) -> Any:
        """Append a node behind the end."""
        output = f"tensor{len(self.nodes)}"
        name = f"{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [self.end, *others], [output], name=name, **attributes))
        self.end = output
        return self.nodes[-1]

    def weight(self, shape: Sequence[int], uneven_axis: int) -> str:
        """Normal weights whose channels differ by up to 2^8."""
        scales = 2.0 ** self.random.uniform(-4, 4, shape[uneven_axis])
        broadcast = [1] * len(shape)
        broadcast[uneven_axis] = -1
        values = self.random.standard_normal(shape) * scales.reshape(broadcast)
        return self.constant(values.astype(np.float32))

    def bias(self, outputs: int) -> str:
        return self.constant(self.random.standard_normal(outputs).astype(np.float32))

    def conv(self, outputs: int = 4, *, bias: bool = True) -> Any:
        extra = [self.bias(outputs)] if bias else []
        weight = self.weight((outputs, self.channels, 3, 3), 0)
        self.channels = outputs
        return self.add("Conv", weight, *extra, kernel_shape=[3, 3], pads=[1] * 4)

    def depthwise(self, multiplier: int = 1) -> Any:
        groups, self.channels = self.channels, self.channels * multiplier
        weight, bias = self.weight((self.channels, 1, 3, 3), 0), self.bias(self.channels)
        return self.add("Conv", weight, bias, kernel_shape=[3, 3], pads=[1] * 4, group=groups)

    def conv_transpose(self, outputs: int = 2, groups: int = 1) -> Any:
        weight = self.weight((self.channels, outputs, 2, 2), 1)
        self.channels = outputs * groups
        bias = self.bias(self.channels)
        return self.add("ConvTranspose", weight, bias, kernel_shape=[2, 2], group=groups)

    def flatten(self) -> None:
        self.add("GlobalAveragePool")
        self.add("Flatten")
        self.flat = True

    def gemm(self, outputs: int = 5, *, transposed: bool = True) -> Any:
        shape = (outputs, self.channels) if transposed else (self.channels, outputs)
        weight, bias = self.weight(shape, 0 if transposed else 1), self.bias(outputs)
        self.channels = outputs
        return self.add("Gemm", weight, bias, transB=int(transposed), alpha=0.5, beta=2.0)

    def matmul(self, outputs: int = 5) -> Any:
        weight = self.weight((self.channels, outputs), 1)
        self.channels = outputs
        return self.add("MatMul", weight)

    def prelu(self) -> None:
        shape = (self.channels,) if self.flat else (self.channels, 1, 1)
        self.add("PRelu", self.constant(self.random.uniform(-1, 1, shape).astype(np.float32)))

    def batch_norm(self, **attributes: Any) -> Any:
        parts = [
            self.random.uniform(0.5, 2, self.channels),
            self.random.standard_normal(self.channels),
            self.random.standard_normal(self.channels),
            self.random.uniform(0.5, 2, self.channels),
        ]
        names = [self.constant(part.astype(np.float32)) for part in parts]
        return self.add("BatchNormalization", *names, **attributes)

    def model(self, *more_outputs: str) -> Any:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", INPUTS, SIDE, SIDE])
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (self.end, *more_outputs)
        ]
        graph = helper.make_graph(self.nodes, "graph", [image], outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def chain(seed: int = 0) -> Chain:
    return Chain(np.random.default_rng(seed))


def images(count: int = 4, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal((count, INPUTS, SIDE, SIDE)).astype(np.float32)


def outputs(model: Any, data: Array | None = None) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    answers: list[Array] = session.run(None, {"image": images() if data is None else data})
    return answers


def constant(model: Any, name: str) -> Array:
    found = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values: Array = numpy_helper.to_array(found)
    return values


def assert_same_function(first: Any, second: Any) -> None:
    """To 1e-4 of the largest answer."""
    for expected, found in zip(outputs(first), outputs(second), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))


_SPATIAL = ("conv", "conv", "depthwise", "depthwise2", "conv_transpose", "grouped", "batch_norm")
_BETWEEN = ("Relu", "LeakyRelu", "prelu", "Identity", "MaxPool", "AveragePool", "Relu6", "Sigmoid", "branch")
_FLAT = ("gemm", "gemm_straight", "matmul", "Relu", "prelu", "batch_norm", "branch")


@st.composite
def random_models(draw: st.DrawFn) -> Any:
    """Up to ten operators, some that equalization must not cross, with a branch here and there."""
    built = chain(draw(st.integers(0, 2**16)))
    built.conv()
    branches: list[str] = []
    for word in draw(st.lists(st.sampled_from(_SPATIAL + _BETWEEN), min_size=1, max_size=6)):
        _extend(built, word, branches)
    if draw(st.booleans()):
        built.flatten()
        for word in draw(st.lists(st.sampled_from(_FLAT), min_size=1, max_size=4)):
            _extend(built, word, branches)
    return built.model(*(name for name in dict.fromkeys(branches) if name not in (built.end, "image")))


def _extend(built: Chain, word: str, branches: list[str]) -> None:
    if word == "branch":
        branches.append(built.end)
    elif word == "Relu6":
        bounds = [built.constant(np.float32(bound)) for bound in (0, 6)]
        built.add("Clip", *bounds)
    elif word == "MaxPool":
        built.add(word, kernel_shape=[3, 3], pads=[1] * 4)
    elif word == "AveragePool":
        built.add(word, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)
    elif word in ("Relu", "LeakyRelu", "Identity", "Sigmoid"):
        built.add(word)
    else:
        _LAYERS[word](built)


_LAYERS: Any = {
    "conv": Chain.conv,
    "depthwise": Chain.depthwise,
    "depthwise2": lambda built: built.depthwise(2),
    "conv_transpose": Chain.conv_transpose,
    "grouped": lambda built: built.conv_transpose(2, built.channels),
    "batch_norm": Chain.batch_norm,
    "prelu": Chain.prelu,
    "gemm": Chain.gemm,
    "gemm_straight": lambda built: built.gemm(transposed=False),
    "matmul": Chain.matmul,
}
