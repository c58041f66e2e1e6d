"""Kernels are counted in the graph that runs, wherever they hide."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from packhorse_host.quantize.errors import ModelError
from packhorse_host.quantize.graph import Architecture, KernelCounts, Level, count_kernels, optimized
from tests.host.float_models import cnn, elementwise


def test_a_float_model_has_no_integer_kernel() -> None:
    assert count_kernels(cnn().SerializeToString(), Architecture.AARCH64) == KernelCounts(0, 4)


def test_elementwise_operators_do_not_count() -> None:
    assert count_kernels(elementwise().SerializeToString(), Architecture.X86_64) == KernelCounts(0, 0)


def test_kernels_inside_a_branch_count() -> None:
    """A model may hide its work in the body of an If."""
    model = cnn()
    body = helper.make_graph(list(model.graph.node), "body", [], list(model.graph.output))
    other = helper.make_graph(
        [helper.make_node("Identity", ["zeros"], ["other"])],
        "other",
        [],
        [helper.make_tensor_value_info("other", TensorProto.FLOAT, ["batch", 4])],
    )
    branch = helper.make_node("If", ["flag"], ["answer"], then_branch=body, else_branch=other)
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    zeros = helper.make_tensor("zeros", TensorProto.FLOAT, [1, 4], [0.0] * 4)
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph(
        [branch], "graph", [*model.graph.input, flag], [answer], [*model.graph.initializer, zeros]
    )
    nested = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert count_kernels(nested.SerializeToString(), Architecture.AARCH64) == KernelCounts(0, 4)


def test_basic_optimization_keeps_to_standard_operators() -> None:
    domains = {node.domain for node in optimized(cnn().SerializeToString(), Level.BASIC).graph.node}
    assert domains <= {"", "ai.onnx"}


def test_what_the_runtime_refuses_is_said_in_one_line() -> None:
    model = onnx.load_model_from_string(cnn().SerializeToString())
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match="ONNX Runtime does not load the model") as caught:
        count_kernels(model.SerializeToString(), Architecture.AARCH64)
    assert "\n" not in str(caught.value)
