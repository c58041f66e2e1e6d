"""MobileNetV2 as ONNX with made-up weights: its shapes, sizes and times, not its answers.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, table 2; batch
normalisation is merged into the convolutions, as exporters do.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BLOCKS: Final = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, output channels, repetitions, stride of the first one."""
SIDE: Final = 224
CLASSES: Final = 1000


class _Builder:
    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = [
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.float32(6), "six"),
        ]

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def weights(self, *shape: int) -> list[str]:
        spread = np.sqrt(2 / np.prod(shape[1:]))
        arrays = self.random.normal(0, spread, shape), self.random.normal(0, 0.1, shape[0])
        names = [f"{kind}_{len(self.constants)}" for kind in "wb"]
        self.constants += [
            numpy_helper.from_array(array.astype(np.float32), name)
            for array, name in zip(arrays, names, strict=True)
        ]
        return names

    def conv(self, source: str, into: int, out: int, kernel: int, stride: int = 1, group: int = 1) -> str:
        return self.add(
            "Conv", [source, *self.weights(out, into // group, kernel, kernel)],
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4, group=group,
        )  # fmt: skip

    def relu6(self, source: str) -> str:
        return self.add("Clip", [source, "zero", "six"])

    def block(self, source: str, into: int, out: int, stride: int, expansion: int) -> str:
        inner, hidden = source, into * expansion
        if expansion != 1:
            inner = self.relu6(self.conv(inner, into, hidden, 1))
        inner = self.relu6(self.conv(inner, hidden, hidden, 3, stride, hidden))
        inner = self.conv(inner, hidden, out, 1)
        return self.add("Add", [source, inner]) if stride == 1 and into == out else inner


def mobilenet_v2(seed: int = 0, side: int = SIDE) -> Any:
    """An `onnx.ModelProto` from `image` FP32 [batch, 3, side, side] to `logits` FP32 [batch, 1000]."""
    build = _Builder(seed)
    last, channels = build.relu6(build.conv("image", 3, 32, 3, 2)), 32
    for expansion, out, repetitions, first_stride in BLOCKS:
        for position in range(repetitions):
            last = build.block(last, channels, out, first_stride if position == 0 else 1, expansion)
            channels = out
    last = build.relu6(build.conv(last, channels, 1280, 1))
    last = build.add("Flatten", [build.add("GlobalAveragePool", [last])])
    build.add("Gemm", [last, *build.weights(CLASSES, 1280)], transB=1)
    build.nodes[-1].output[0] = "logits"
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, side, side])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])
    graph = helper.make_graph(build.nodes, "mobilenet_v2", [image], [logits], build.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
