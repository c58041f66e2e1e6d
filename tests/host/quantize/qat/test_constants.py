"""Constants of trained graphs: integer biases, a zero point for each weight; and the function stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from packhorse_agent.runtime.datatypes import Array
from packhorse_host.quantize.graph import Architecture, count_kernels
from packhorse_host.quantize.qat.constants import quantize_biases, separate_constants

CHANNELS = 4


def layer(*, per_channel: bool = True, quantized_weight: bool = True) -> Any:
    """Conv with a float bias between Q/DQ pairs, as torch.onnx writes trained programs."""
    stream = np.random.default_rng(0)
    scales = np.linspace(0.01, 0.02, CHANNELS, dtype=np.float32) if per_channel else np.float32(0.01)
    constants: dict[str, Array] = {
        "x_scale": np.array(0.05, np.float32),
        "x_zero": np.array(-10, np.int8),
        "w_int": stream.integers(-127, 128, (CHANNELS, 1, 3, 3)).astype(np.int8),
        "w_scale": np.asarray(scales),
        "w_zero": np.zeros_like(scales, dtype=np.int8),
        "bias": stream.normal(size=CHANNELS).astype(np.float32),
    }
    weight = helper.make_node("DequantizeLinear", ["w_int", "w_scale", "w_zero"], ["w"], axis=0)
    if not quantized_weight:
        constants["w"] = constants["w_int"].astype(np.float32)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x_dq"]),
        *([weight] if quantized_weight else []),
        helper.make_node("Conv", ["x_dq", "w", "bias"], ["y"], name="conv"),
        helper.make_node("QuantizeLinear", ["y", "x_scale", "x_zero"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "x_scale", "x_zero"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, CHANNELS, 6, 6])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def answer(model: Any) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(1).normal(size=(1, 1, 8, 8)).astype(np.float32)
    result: Array = session.run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_function_stays_within_a_step_and_the_layer_runs_in_integers(per_channel: bool) -> None:
    before = layer(per_channel=per_channel)
    after = quantize_biases(before)
    onnx.checker.check_model(after)
    assert np.abs(answer(before) - answer(after)).max() <= 0.05 * 1.01
    counted = count_kernels(after.SerializeToString(), Architecture.AARCH64)
    assert (counted.integer, counted.compute) == (1, 1)
    assert not any(tensor.name == "bias" for tensor in after.graph.initializer)


def test_what_it_is_given_is_not_changed() -> None:
    model = layer()
    content = model.SerializeToString()
    quantize_biases(model)
    assert model.SerializeToString() == content


def test_a_second_time_changes_nothing() -> None:
    once = quantize_biases(layer())
    assert quantize_biases(once).SerializeToString() == once.SerializeToString()


def test_a_float_layer_is_left_alone() -> None:
    model = layer(quantized_weight=False)
    assert [node.op_type for node in quantize_biases(model).graph.node] == [
        node.op_type for node in model.graph.node
    ]


def test_weights_that_share_a_zero_point_get_their_own() -> None:
    model = layer()
    second = helper.make_node("DequantizeLinear", ["w_int", "w_scale", "w_zero"], ["again"], axis=0)
    model.graph.node.insert(2, second)
    after = separate_constants(model)
    onnx.checker.check_model(after)
    pairs = [node for node in after.graph.node if node.output[0] in ("w", "again")]
    assert len({name for node in pairs for name in node.input[1:]}) == 4
    np.testing.assert_array_equal(answer(model), answer(after))
    assert separate_constants(after).SerializeToString() == after.SerializeToString()
