"""all-MiniLM-L6-v2 from its weights as an ONNX model that gives one embedding for each sentence.

Source of the architecture: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding"; sizes from the model's `config.json`, mean pooling from its `1_Pooling/config.json`.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LENGTH = 32
"""Tokens of a sentence; what is longer is cut off."""
LAYERS, HEADS, WIDTH = 6, 12, 384
EPSILON = 1e-12
MASKED = -10_000.0


def read_tensors(data: bytes) -> dict[str, Any]:
    """FP32 arrays of a safetensors file: length of the header, header in JSON, values."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            arrays[name] = np.frombuffer(data[first:last], np.float32).reshape(entry["shape"])
    return arrays


def embedder(tensors: dict[str, Any]) -> Any:
    """The ONNX model: `input_ids` and `attention_mask` [N, LENGTH] to `embedding` [N, WIDTH], of length 1."""
    graph = _Graph(tensors)
    mask = graph.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    absent = graph.add("Sub", graph.constant(1.0), mask)
    penalty = graph.add("Mul", graph.add("Unsqueeze", absent, graph.integers(1, 2)), graph.constant(MASKED))
    words = graph.add("Gather", graph.weight("embeddings.word_embeddings.weight"), "input_ids")
    places = tensors["embeddings.position_embeddings.weight"][:LENGTH]
    kind = tensors["embeddings.token_type_embeddings.weight"][0]
    hidden = graph.norm(graph.add("Add", words, graph.constant(places + kind)), "embeddings.LayerNorm")
    for index in range(LAYERS):
        hidden = _layer(graph, f"encoder.layer.{index}", hidden, penalty)
    weights = graph.add("Unsqueeze", mask, graph.integers(2))
    total = graph.add("ReduceSum", graph.add("Mul", hidden, weights), graph.integers(1), keepdims=0)
    mean = graph.add("Div", total, graph.add("ReduceSum", mask, graph.integers(1), keepdims=1))
    graph.add("LpNormalization", mean, output="embedding", axis=1, p=2)
    return graph.model()


def _layer(graph: _Graph, name: str, hidden: str, penalty: str) -> str:
    scale = graph.constant(float((WIDTH // HEADS) ** -0.5))

    def heads(part: str, *order: int) -> str:
        values = graph.linear(hidden, f"{name}.attention.self.{part}")
        split = graph.add("Reshape", values, graph.integers(0, LENGTH, HEADS, WIDTH // HEADS))
        return graph.add("Transpose", split, perm=order)

    alike = graph.add("MatMul", heads("query", 0, 2, 1, 3), heads("key", 0, 2, 3, 1))
    scores = graph.add("Add", graph.add("Mul", alike, scale), penalty)
    seen = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), heads("value", 0, 2, 1, 3))
    joined = graph.add("Transpose", seen, perm=[0, 2, 1, 3])
    joined = graph.add("Reshape", joined, graph.integers(0, LENGTH, WIDTH))
    attended = graph.linear(joined, f"{name}.attention.output.dense")
    hidden = graph.norm(graph.add("Add", attended, hidden), f"{name}.attention.output.LayerNorm")
    inner = graph.gelu(graph.linear(hidden, f"{name}.intermediate.dense"))
    outer = graph.linear(inner, f"{name}.output.dense")
    return graph.norm(graph.add("Add", outer, hidden), f"{name}.output.LayerNorm")


class _Graph:
    def __init__(self, tensors: dict[str, Any]) -> None:
        self._tensors = tensors
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, value: Any) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants[name] = np.asarray(value, np.float32)
        return name

    def integers(self, *values: int) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants[name] = np.array(values, np.int64)
        return name

    def weight(self, name: str, *, turned: bool = False) -> str:
        self._constants[name] = self._tensors[name].T.copy() if turned else self._tensors[name]
        return name

    def linear(self, values: str, name: str) -> str:
        product = self.add("MatMul", values, self.weight(f"{name}.weight", turned=True))
        return self.add("Add", product, self.weight(f"{name}.bias"))

    def norm(self, values: str, name: str) -> str:
        parts = [self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.add("LayerNormalization", values, *parts, axis=-1, epsilon=EPSILON)

    def gelu(self, values: str) -> str:
        erf = self.add("Erf", self.add("Div", values, self.constant(2**0.5)))
        share = self.add("Add", erf, self.constant(1.0))
        return self.add("Mul", self.add("Mul", values, share), self.constant(0.5))

    def model(self) -> Any:
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["N", LENGTH])
            for name in ("input_ids", "attention_mask")
        ]
        output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", WIDTH])
        constants = [numpy_helper.from_array(array, name) for name, array in self._constants.items()]
        graph = helper.make_graph(self._nodes, "minilm", inputs, [output], constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(made)
        return made
