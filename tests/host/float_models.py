"""Small float models, data that fits them, and profiles, made on the spot; tests break them in one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.contract.profile import Profile
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.samples import ArraySamples

SIDE, CLASSES = 8, 4
IMAGE = TensorSpec(name="image", datatype="FP32", shape=(-1, 1, SIDE, SIDE))
LOGITS = TensorSpec(name="logits", datatype="FP32", shape=(-1, CLASSES))


class _Builder:
    def __init__(self) -> None:
        self.random = np.random.default_rng(3)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def weights(self, name: str, *shape: int) -> str:
        values = self.random.normal(size=shape) * np.sqrt(2 / max(1, int(np.prod(shape[1:]))))
        self.constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, name: str, source: str, shape: tuple[int, int, int, int], group: int = 1) -> str:
        pads = [shape[2] // 2] * 4
        inputs = [source, self.weights(f"{name}_w", *shape), self.weights(f"{name}_b", shape[0])]
        return self.add("Conv", inputs, name, kernel_shape=list(shape[2:]), pads=pads, group=group)

    def model(self, inputs: list[Any], outputs: list[Any], opset: int) -> Any:
        graph = helper.make_graph(self.nodes, "graph", inputs, outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def cnn(opset: int = 17, batch: int | str = "batch", *, softmax: bool = False) -> Any:
    """Convolutions (one depthwise, one residual), pooling and a classifier: 4 kernels that compute."""
    build = _Builder()
    stem = build.add("Relu", [build.conv("stem", "image", (8, 1, 3, 3))], "stem_relu")
    depthwise = build.add("Relu", [build.conv("depthwise", stem, (8, 1, 3, 3), 8)], "depthwise_relu")
    project = build.conv("project", depthwise, (8, 8, 1, 1))
    residual = build.add("Add", [stem, project], "residual")
    pooled = build.add("GlobalAveragePool", [residual], "pooled")
    flat = build.add("Flatten", [pooled], "flat")
    dense = [flat, build.weights("dense_w", CLASSES, 8), build.weights("dense_b", CLASSES)]
    last = build.add("Gemm", dense, "scores" if softmax else "logits", transB=1)
    if softmax:
        build.add("Softmax", [last], "logits", axis=1)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 1, SIDE, SIDE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])
    return build.model([image], [logits], opset)


def elementwise() -> Any:
    """A model with nothing to quantize: no kernel that computes."""
    build = _Builder()
    build.add("Erf", ["image"], "logits")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", CLASSES])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])
    return build.model([image], [logits], 17)


def images(count: int, seed: int = 0) -> Array:
    """FP32 [count, 1, SIDE, SIDE], standard normal."""
    stream = np.random.default_rng(seed)
    return stream.standard_normal((count, 1, SIDE, SIDE)).astype(np.float32)


def image_samples(count: int, seed: int = 0) -> ArraySamples:
    return ArraySamples({"image": images(count, seed)})


def decisions(model: Any, data: Array) -> Array:
    """What the float model says to `data`: labels by which it is always right."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    decided: Array = session.run(["logits"], {"image": data})[0].argmax(axis=1)
    return decided


def save(model: Any, path: Path) -> Path:
    onnx.save(model, path)
    return path


def save_npz(path: Path, **arrays: Array) -> Path:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def profile(name: str = "board", architecture: str = "aarch64", **changes: Any) -> Profile:
    """A valid profile, changed in one place."""
    content: dict[str, Any] = {
        "name": name,
        "title": "A board",
        "compatible": {"architectures": [architecture], "operating_systems": ["linux"]},
        "runtimes": [{"name": "onnxruntime", "minimum_version": "1.20"}],
        "recipe": {"name": "static_wi8_ai8", "reason": "test"},
        "threads": 1,
        "budget": {"memory_mib": 64, "storage_mib": 64},
        "thermal": {"warm_c": 70.0, "critical_c": 80.0},
    }
    return Profile.model_validate(content | changes)
