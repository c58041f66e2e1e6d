"""Ranges are those of all samples, whatever the bounds on memory do to batches and groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from packhorse_agent.contract.recipe import CalibrationMethod
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.samples import ArraySamples
from packhorse_host.quantize.calibrate import collect
from packhorse_host.quantize.calibrate.collect import collect_ranges
from packhorse_host.quantize.calibrate.graph import range_tensors, showing
from packhorse_host.quantize.calibrate.methods import choose_range
from packhorse_host.quantize.calibrate.observer import Range, observe
from packhorse_host.quantize.emit_onnxruntime import INTEGER_OPERATORS
from packhorse_host.quantize.errors import ActivationError, ModelError
from tests.host.float_models import cnn, image_samples

METHODS = list(CalibrationMethod)


def shaped(model: Any) -> Any:
    return onnx.shape_inference.infer_shapes(model)


def formula(*nodes: Any, shape: Sequence[Any] = ("batch", 4)) -> Any:
    """A model from `x` to `y`."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(list(nodes), "formula", value[:1], value[1:])
    return shaped(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def collected(
    model: Any, tensors: Sequence[str], array: Array, method: CalibrationMethod
) -> dict[str, Range]:
    name = model.graph.input[0].name
    return collect_ranges(model, tensors, ArraySamples({name: array}), method, 99.9, batch=8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fetched", [1, 30_000, 2**26])
@pytest.mark.parametrize("count", [1, 7, 33])
def test_as_if_all_samples_ran_at_once(
    monkeypatch: pytest.MonkeyPatch, method: CalibrationMethod, fetched: int, count: int
) -> None:
    """Each tensor alone and sample by sample, some at once, or everything: no sample is counted twice."""
    monkeypatch.setattr(collect, "FETCH_BYTES_MAX", fetched)
    model, samples = shaped(cnn()), image_samples(count)
    tensors = range_tensors(model, INTEGER_OPERATORS, ())
    found = collect_ranges(model, tensors, samples, method, 99.9, batch=8)
    session = onnxruntime.InferenceSession(showing(model, tensors).SerializeToString())
    outputs = dict(zip(tensors, session.run(None, samples.arrays), strict=True))
    assert list(found) == tensors
    for name, array in outputs.items():
        expected = choose_range(observe(array), method, 99.9)
        width = 2e-2 * max(abs(expected.low), abs(expected.high))
        assert found[name].low == pytest.approx(expected.low, abs=width), name
        assert found[name].high == pytest.approx(expected.high, abs=width), name


def test_what_is_watched_is_what_gets_pairs() -> None:
    """Not constants; not what goes into a Relu, which takes the range of what comes out."""
    tensors = range_tensors(shaped(cnn()), INTEGER_OPERATORS, ())
    assert tensors == [
        "image",
        "stem_relu",
        "depthwise_relu",
        "project",
        "residual",
        "pooled",
        "flat",
        "logits",
    ]


def test_around_excluded_nodes_nothing_is_watched() -> None:
    excluded = ["depthwise", "depthwise_relu", "pooled", "flat", "logits"]
    tensors = range_tensors(shaped(cnn()), INTEGER_OPERATORS, excluded)
    assert tensors == ["image", "stem_relu", "depthwise_relu", "project", "residual"]


def test_a_relu_that_stays_float_has_an_input_with_a_range() -> None:
    tensors = range_tensors(shaped(cnn()), INTEGER_OPERATORS, ["stem_relu"])
    assert "stem" in tensors


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", ["NaN", "infinity"])
def test_a_tensor_that_is_not_finite_is_named(method: CalibrationMethod, wrong: str) -> None:
    """Also where a later operator hides it: 1 / infinity is 0."""
    operator = "Sqrt" if wrong == "NaN" else "Reciprocal"
    model = formula(
        helper.make_node(operator, ["x"], ["bad"]),
        helper.make_node("IsNaN", ["bad"], ["flag"]),
        helper.make_node("Cast", ["flag"], ["y"], to=TensorProto.FLOAT),
    )
    array = np.ones((20, 4), np.float32)
    array[17, 2] = -1.0 if wrong == "NaN" else 0.0
    with pytest.raises(ActivationError, match=r"`bad`.*NaN or infinity"):
        collected(model, ["x", "bad", "y"], array, method)


@pytest.mark.parametrize("method", METHODS)
def test_nan_in_the_samples_themselves(method: CalibrationMethod) -> None:
    array = np.ones((20, 4), np.float32)
    array[3, 1] = np.nan
    with pytest.raises(ActivationError, match="`x`"):
        collected(formula(helper.make_node("Relu", ["x"], ["y"])), ["x", "y"], array, method)


@pytest.mark.parametrize("method", METHODS)
def test_dead_and_constant_tensors(method: CalibrationMethod) -> None:
    """Their range has no width; what that means is the quantizer's business."""
    model = formula(helper.make_node("Relu", ["x"], ["dead"]), helper.make_node("Exp", ["dead"], ["y"]))
    found = collected(model, ["dead", "y"], np.full((5, 4), -1, np.float32), method)
    assert found == {"dead": Range(0.0, 0.0), "y": Range(1.0, 1.0)}


@pytest.mark.parametrize("method", METHODS)
def test_one_sample(method: CalibrationMethod) -> None:
    model = formula(helper.make_node("Relu", ["x"], ["y"]))
    found = collected(model, ["x", "y"], np.array([[-2, 0, 1, 3]], np.float32), method)
    assert found["x"].low >= -2
    assert 0 <= found["y"].high <= 3


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_without_elements(method: CalibrationMethod) -> None:
    """As a detector's list of boxes when it finds none."""
    start = helper.make_node("Constant", [], ["start"], value_ints=[4])
    end = helper.make_node("Constant", [], ["end"], value_ints=[9])
    axis = helper.make_node("Constant", [], ["axis"], value_ints=[1])
    model = formula(start, end, axis, helper.make_node("Slice", ["x", "start", "end", "axis"], ["none"]),
                    helper.make_node("Concat", ["x", "none"], ["y"], axis=1))  # fmt: skip
    found = collected(model, ["none", "y"], np.ones((3, 4), np.float32), method)
    assert found == {"none": Range(0.0, 0.0), "y": Range(1.0, 1.0)}


def test_nothing_to_watch() -> None:
    assert collect_ranges(shaped(cnn()), [], image_samples(2), CalibrationMethod.MINMAX, 99.9, batch=8) == {}


def test_samples_that_the_model_does_not_take() -> None:
    """The shape of a sample passes the check of the input and fails inside."""
    model = formula(helper.make_node("Reshape", ["x", "shape"], ["y"]), shape=("batch", "length"))
    model.graph.initializer.append(helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 4]))
    with pytest.raises(ModelError, match="does not run on the calibration data"):
        collected(model, ["x", "y"], np.ones((1, 3), np.float32), CalibrationMethod.MINMAX)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_tensors(method: CalibrationMethod) -> None:
    """Sums of many of them would overflow in their own type."""
    model = formula(
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["y"], to=TensorProto.FLOAT),
    )
    array = np.full((100, 4), 60_000, np.float32)
    assert collected(model, ["half"], array, method) == {"half": Range(60_000.0, 60_000.0)}
