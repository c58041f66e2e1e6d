"""Equalization keeps the function, evens the channels, and leaves alone what it may not touch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper

from packhorse_host.quantize.transform.equalize import equalize
from packhorse_host.quantize.transform.layers import GraphView, find_layers
from tests.host.quantize.transform.graphs import (
    Chain,
    assert_same_function,
    chain,
    constant,
    random_models,
)
from variants_builder.hard import make_hard

SAMPLE = Path(__file__).parents[4] / "samples" / "fashion-mnist" / "model.onnx"


@settings(max_examples=60, deadline=None)
@given(random_models())
def test_the_function_stays(model: Any) -> None:
    assert_same_function(model, equalize(model))


@settings(max_examples=30, deadline=None)
@given(random_models())
def test_once_is_enough(model: Any) -> None:
    """Equalizing twice gives the same bytes as once, and the same each time."""
    once = equalize(model)
    assert equalize(model) == once
    assert equalize(once) == once


@settings(max_examples=20, deadline=None)
@given(random_models())
def test_the_given_model_is_not_touched(model: Any) -> None:
    before = model.SerializeToString()
    equalize(model)
    assert model.SerializeToString() == before


def _ranges(model: Any) -> list[tuple[Any, Any]]:
    return [(layer.input_ranges(), layer.output_ranges()) for layer in find_layers(GraphView(model))]


def _without_biases(build: Chain) -> Chain:
    build.conv(6, bias=False)
    build.add("Relu")
    return build


def test_neighbours_get_equal_ranges() -> None:
    build = _without_biases(chain())
    build.conv(4, bias=False)
    (_, makes), (takes, _) = _ranges(equalize(build.model()))
    np.testing.assert_allclose(makes, takes, rtol=1e-3)


def test_a_depthwise_triple_gets_three_equal_ranges() -> None:
    """Equal to their geometric mean, as the formula for triples has it."""
    build = _without_biases(chain())
    weight = build.weight((6, 1, 3, 3), 0)
    build.add("Conv", weight, kernel_shape=[3, 3], pads=[1] * 4, group=6)
    build.add("LeakyRelu")
    build.conv(4, bias=False)
    model = build.model()
    (_, first), (_, second), (third, _) = _ranges(model)
    mean = np.cbrt(first * second * third)
    (_, makes), (middle, _), (takes, _) = _ranges(equalize(model))
    for found in (makes, middle, takes):
        np.testing.assert_allclose(found, mean, rtol=1e-3)


def test_a_flattened_channel_is_scaled_at_every_position() -> None:
    build = chain()
    build.conv(4)
    build.add("Relu")
    build.add("Flatten")
    build.channels, build.flat = 4 * 36, True
    build.gemm(3)
    model = build.model()
    assert equalize(model) != model
    assert_same_function(model, equalize(model))


@pytest.mark.parametrize("spread_log2", [4.0, 6.0])
def test_a_hard_variant_becomes_what_the_plain_model_becomes(spread_log2: float) -> None:
    plain = onnx.load(SAMPLE)
    expected, found = equalize(plain), equalize(make_hard(plain, spread_log2, seed=0))
    for tensor in expected.graph.initializer:
        values = constant(expected, tensor.name)
        np.testing.assert_allclose(constant(found, tensor.name), values, atol=1e-3 * np.abs(values).max())


def test_names_stay() -> None:
    model = onnx.load(SAMPLE)
    changed = equalize(model)
    assert [node.name for node in changed.graph.node] == [node.name for node in model.graph.node]
    assert {tensor.name for tensor in changed.graph.initializer} == {
        tensor.name for tensor in model.graph.initializer
    }


def test_a_channel_without_weights_keeps_its_bias() -> None:
    """Blown up to the size of its neighbours' weights it would take the whole activation range."""
    build = chain()
    node = build.conv(4)
    weight = next(tensor for tensor in build.constants if tensor.name == node.input[1])
    values = onnx.numpy_helper.to_array(weight).copy()
    values[2] *= 1e-9
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    build.add("Relu")
    build.conv(4)
    model = build.model()
    bias = equalize(model).graph.node[0].input[2]
    before, after = constant(model, bias), constant(equalize(model), bias)
    assert abs(after[2]) < 100 * abs(before[2])


def test_channels_of_zeros_stay_zeros() -> None:
    build = chain()
    node = build.conv(4, bias=False)
    weight = next(tensor for tensor in build.constants if tensor.name == node.input[1])
    values = onnx.numpy_helper.to_array(weight).copy()
    values[1] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    build.conv(4)
    changed = equalize(build.model())
    assert np.isfinite(constant(changed, changed.graph.node[1].input[1])).all()
    assert_same_function(build.model(), changed)


def _clipped(build: Chain) -> None:
    build.add("Clip", build.constant(np.float32(0)), build.constant(np.float32(6)))


@pytest.mark.parametrize(
    "between",
    [
        pytest.param(_clipped, id="a finite maximum"),
        pytest.param(lambda build: build.add("Sigmoid"), id="not homogeneous"),
        pytest.param(lambda build: build.add("Add", build.end), id="used twice"),
        pytest.param(lambda build: build.add("Transpose", perm=[0, 1, 3, 2]), id="unknown to it"),
    ],
)
def test_what_is_never_crossed(between: Any) -> None:
    build = chain()
    build.conv()
    between(build)
    build.conv()
    model = build.model()
    assert equalize(model) == model


def test_an_open_clip_is_a_relu() -> None:
    build = chain()
    build.conv()
    build.add("Clip", build.constant(np.float32(0)))
    build.conv()
    model = build.model()
    assert equalize(model) != model
    assert_same_function(model, equalize(model))


def test_a_tensor_that_is_an_output_is_not_scaled() -> None:
    build = chain()
    build.conv()
    build.add("Relu")
    inner = build.end
    build.conv()
    model = build.model(inner)
    assert equalize(model) == model


def test_a_tensor_that_a_subgraph_reads_is_not_scaled() -> None:
    build = chain()
    build.conv()
    inner = build.end
    branch = helper.make_graph(
        [helper.make_node("Neg", [inner], ["negated"])],
        "branch",
        [],
        [helper.make_tensor_value_info("negated", TensorProto.FLOAT, None)],
    )
    build.conv()
    condition = build.constant(np.array(True))
    build.nodes.append(
        helper.make_node("If", [condition], ["chosen"], then_branch=branch, else_branch=branch)
    )
    model = build.model("chosen")
    assert equalize(model) == model


def test_weights_that_two_layers_share_stay() -> None:
    build = chain()
    weight = build.weight((INPUTS_SHARED, INPUTS_SHARED, 3, 3), 0)
    for _ in range(2):
        build.add("Conv", weight, kernel_shape=[3, 3], pads=[1] * 4)
        build.add("Relu")
    model = build.model()
    assert equalize(model) == model


INPUTS_SHARED = 3


def test_a_bias_that_two_layers_share_is_parted() -> None:
    build = chain()
    shared = build.bias(4)
    for _ in range(3):
        weight = build.weight((4, build.channels, 3, 3), 0)
        build.add("Conv", weight, shared, kernel_shape=[3, 3], pads=[1] * 4)
        build.channels = 4
    model = build.model()
    assert_same_function(model, equalize(model))
    assert len({node.input[2] for node in equalize(model).graph.node}) == 3


def test_weights_that_are_not_finite_stay() -> None:
    build = chain()
    node = build.conv()
    weight = next(tensor for tensor in build.constants if tensor.name == node.input[1])
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    build.conv()
    model = build.model()
    assert equalize(model).SerializeToString() == model.SerializeToString()
