"""ONNX models with explicit pairs for TensorRT: where pairs are, what numbers they have, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from packhorse_agent.contract.recipe import (
    CalibrationMethod,
    DynamicWi8Afp32,
    Fp16,
    Fp32,
    MixedWi8Ai8,
    QatWi8Ai8,
    Recipe,
    StaticWi8Ai8,
    StaticWi8Ai16,
    WeightOnlyWi4Afp32,
    WeightOnlyWi8Afp32,
)
from packhorse_agent.runtime.datatypes import Array
from packhorse_agent.runtime.golden import sqnr_db
from packhorse_host.evaluate.samples import ArraySamples
from packhorse_host.quantize import emit_onnxruntime
from packhorse_host.quantize.calibrate.observer import Range
from packhorse_host.quantize.emit_tensorrt import UNFIT, emit
from packhorse_host.quantize.errors import CalibrationNeededError, ModelError, UnsupportedRecipeError
from packhorse_host.quantize.source import SourceModel, read_source
from packhorse_host.quantize.tensorrt_graph import OPERATORS, Edge, count_quantized, place_pairs
from packhorse_host.quantize.tensorrt_pairs import symmetric_scale
from tests.host.float_models import SIDE, cnn, elementwise, image_samples, images, save

STATIC = StaticWi8Ai8(symmetric_activations=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    return read_source(save(cnn(), tmp_path_factory.mktemp("model") / "model.onnx"))


class Graph:
    """A model's nodes, by what they give."""

    def __init__(self, model: bytes) -> None:
        self.proto: Any = onnx.load_model_from_string(model)
        self.nodes = list(self.proto.graph.node)
        self.makers = {node.output[0]: node for node in self.nodes}
        self.constants = {tensor.name: tensor for tensor in self.proto.graph.initializer}

    def all(self, operator: str) -> list[Any]:
        return [node for node in self.nodes if node.op_type == operator]

    def makes(self, tensor: str) -> str:
        maker = self.makers.get(tensor)
        return maker.op_type if maker is not None else ""

    def values(self, name: str) -> Array:
        found: Array = numpy_helper.to_array(self.constants[name])
        return found


def answers(model: bytes, data: Array) -> Array:
    """With the kernels that the packager takes: exact ones."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    found: Array = onnxruntime.InferenceSession(model, options).run(None, {"image": data})[0]
    return found


def built(
    nodes: Sequence[Any], constants: dict[str, Array], outputs: dict[str, list[Any]], channels: int = 4
) -> Any:
    """A model of `image`, [batch, channels, SIDE, SIDE], with inferred types."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", channels, SIDE, SIDE])
    given_out = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs.items()
    ]
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "graph", [image], given_out, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return onnx.shape_inference.infer_shapes(model)


def node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs, [output], name=output, **attributes)


def kernel(*shape: int) -> Array:
    values: Array = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return values


def placed(model: Any, excluded: Sequence[str] = ()) -> set[tuple[str, int]]:
    placement = place_pairs(model, OPERATORS, excluded)
    return {(place.edge.node, place.edge.position) for place in placement.activations}


def test_pairs_stand_before_every_product_and_nowhere_behind(source: SourceModel) -> None:
    graph = Graph(emit(source, STATIC, image_samples(16)))
    products = [*graph.all("Conv"), *graph.all("Gemm")]
    assert len(products) == 4
    for product in products:
        assert [graph.makes(name) for name in product.input[:2]] == ["DequantizeLinear"] * 2
        assert product.input[2] in graph.constants, "biases stay float"
        assert graph.values(product.input[2]).dtype == np.float32
    quantized = {node.input[0] for node in graph.all("QuantizeLinear")}
    assert not quantized & {conv.output[0] for conv in graph.all("Conv")}


def test_all_is_signed_and_symmetric(source: SourceModel) -> None:
    graph = Graph(emit(source, STATIC, image_samples(16)))
    for pair in graph.all("QuantizeLinear"):
        scale, zero = (graph.values(name) for name in pair.input[1:])
        assert [str(each.dtype) for each in (scale, zero)] == ["float32", "int8"]
        assert scale.shape == zero.shape == ()
        assert zero == 0
        assert scale > 0
    for back in graph.all("DequantizeLinear"):
        weight = graph.constants.get(back.input[0])
        if weight is None:
            assert list(back.input[1:]) == list(graph.makers[back.input[0]].input[1:])
        else:
            values = graph.values(back.input[0])
            assert values.dtype == np.int8
            assert values.min() >= -127
            assert graph.values(back.input[1]).shape == (values.shape[0],)
            zeros = graph.values(back.input[2])
            assert zeros.shape == graph.values(back.input[1]).shape
            assert str(zeros.dtype) == "int8"
            assert not zeros.any()


def test_the_skip_of_a_residual_addition_has_a_pair_of_its_own(source: SourceModel) -> None:
    graph = Graph(emit(source, STATIC, image_samples(16)))
    (addition,) = graph.all("Add")
    made_by = [graph.makes(name) for name in addition.input]
    assert made_by == ["DequantizeLinear", "Conv"]
    skip = graph.makers[graph.makers[addition.input[0]].input[0]]
    sharing = [pair for pair in graph.all("QuantizeLinear") if pair.input[0] == skip.input[0]]
    assert len(sharing) == 2, "one for the convolution, one for the addition"
    assert len({float(graph.values(pair.input[1])) for pair in sharing}) == 1


def test_weights_come_back_within_half_a_step(source: SourceModel) -> None:
    graph = Graph(emit(source, STATIC, image_samples(4)))
    floats = onnx.load_model_from_string(source.data).graph.initializer
    (original,) = [numpy_helper.to_array(tensor) for tensor in floats if tensor.name == "project_w"]
    weights = [graph.makers[conv.input[1]] for conv in graph.all("Conv")]
    (back,) = [each for each in weights if graph.values(each.input[0]).shape == original.shape]
    steps, scale = graph.values(back.input[0]), graph.values(back.input[1]).reshape(-1, 1, 1, 1)
    assert np.abs(steps * scale - original).max() <= scale.max() / 2 * 1.001
    assert np.abs(steps).reshape(len(steps), -1).max(axis=1).tolist() == [127] * len(steps)


@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30))
def test_a_scale_spans_the_larger_magnitude(low: float, high: float) -> None:
    scale = symmetric_scale(Range(min(low, high), max(low, high)))
    assert np.isfinite(scale)
    assert np.float32(scale) > 0
    largest = max(abs(low), abs(high))
    assert largest <= scale * 127 * (1 + 1e-6)


def test_nothing_but_zero_has_a_scale() -> None:
    assert symmetric_scale(Range(0.0, 0.0)) == 1.0


def test_answers_are_those_of_the_float_model_but_for_noise(source: SourceModel) -> None:
    data = images(64, seed=9)
    model = emit(source, STATIC, image_samples(40))
    noise_db = sqnr_db(answers(source.data, data), answers(model, data))
    assert noise_db is not None
    assert noise_db > 20
    assert len(model) < len(source.data) + 16 * 1024


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_every_way_to_calibrate_works(source: SourceModel, method: CalibrationMethod) -> None:
    recipe = STATIC.model_copy(update={"calibration": method})
    data = images(32, seed=9)
    noise_db = sqnr_db(answers(source.data, data), answers(emit(source, recipe, image_samples(32)), data))
    assert noise_db is not None
    assert noise_db > 15


def test_equalizing_and_correcting_leave_biases_float(tmp_path: Path) -> None:
    model = cnn()
    for entry in model.graph.node:
        if entry.op_type == "Conv":
            del entry.input[2:]
    plain = read_source(save(model, tmp_path / "model.onnx"))
    recipe = STATIC.model_copy(update={"equalize": True, "correct_bias": True})
    graph = Graph(emit(plain, recipe, image_samples(16)))
    for conv in graph.all("Conv"):
        assert graph.values(conv.input[2]).dtype == np.float32
        assert np.abs(graph.values(conv.input[2])).max() > 0
    assert not [tensor for tensor in graph.constants.values() if tensor.data_type == TensorProto.INT32]


def test_the_same_input_gives_the_same_bytes(source: SourceModel) -> None:
    assert emit(source, STATIC, image_samples(8)) == emit(source, STATIC, image_samples(8))


def test_counting_takes_products_with_pairs_on_both_inputs(source: SourceModel) -> None:
    counts = [
        count_quantized(onnx.load_model_from_string(emit(source, recipe, image_samples(8))))
        for recipe in (Fp32(), STATIC, MixedWi8Ai8(float_nodes=("stem",), symmetric_activations=True))
    ]
    assert [(each.integer, each.compute) for each in counts] == [(0, 4), (4, 4), (3, 4)]
    assert counts[0].conversions == 0


def test_half_precision_is_in_the_graph(source: SourceModel) -> None:
    """A strongly typed network takes its types from the graph."""
    graph = Graph(emit(source, Fp16(), None))
    for conv in graph.all("Conv"):
        assert graph.values(conv.input[1]).dtype == np.float16
    assert [value.type.tensor_type.elem_type for value in graph.proto.graph.input] == [TensorProto.FLOAT]


def test_fp32_is_the_model_as_it_came(source: SourceModel) -> None:
    assert emit(source, Fp32(), None) == source.data


def test_probabilities_at_the_end_stay_float(tmp_path: Path) -> None:
    graph = Graph(emit(read_source(save(cnn(softmax=True), tmp_path / "m.onnx")), STATIC, image_samples(8)))
    (softmax,) = graph.all("Softmax")
    assert graph.makes(softmax.input[0]) == "Gemm"


def test_old_operator_sets_are_raised_to_where_weights_have_channels(tmp_path: Path) -> None:
    graph = Graph(emit(read_source(save(cnn(opset=11), tmp_path / "m.onnx")), STATIC, image_samples(8)))
    assert {entry.domain: entry.version for entry in graph.proto.opset_import}[""] >= 13


def conv(source: str, output: str, **attributes: Any) -> Any:
    return node("Conv", [source, f"{output}_w"], output, kernel_shape=[1, 1], **attributes)


KERNELS = {f"{name}_w": kernel(4, 4, 1, 1) for name in ("a", "b", "c", "d")}
PLANE = ["batch", 4, SIDE, SIDE]


def test_of_two_convolutions_the_shorter_branch_is_the_skip() -> None:
    nodes = [conv("image", "a"), node("Relu", ["a"], "relu"), conv("relu", "b"), conv("image", "c")]
    for inputs, position in ((["b", "c"], 1), (["c", "b"], 0)):
        model = built([*nodes, node("Add", inputs, "sum")], KERNELS, {"sum": PLANE})
        assert ("sum", position) in placed(model)
        assert ("sum", 1 - position) not in placed(model)


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([conv("image", "a"), node("Add", ["a", "a"], "sum")], "one tensor twice"),
        ([conv("image", "a"), node("Relu", ["a"], "relu"), node("Add", ["relu", "image"], "sum")],
         "an activation comes before the addition"),
        ([conv("image", "a"), conv("a", "b"), node("Mul", ["a", "b"], "m"), node("Add", ["a", "m"], "sum")],
         "the convolution is read elsewhere too"),
        ([conv("image", "a"), node("Add", ["a", "shift"], "sum")], "a constant is added"),
        ([conv("image", "a"), node("GlobalMaxPool", ["image"], "m"), node("Add", ["a", "m"], "sum")],
         "shapes differ"),
        ([node("Sigmoid", ["image"], "s"), node("Add", ["image", "s"], "sum")], "no convolution"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_other_additions_have_no_pairs(nodes: list[Any], why: str) -> None:
    model = built(nodes, KERNELS | {"shift": kernel(1, 4, 1, 1)}, {"sum": PLANE})
    assert not [edge for edge in placed(model) if edge[0] == "sum"], why


def test_an_excluded_convolution_makes_no_residual_addition() -> None:
    model = built([conv("image", "a"), node("Add", ["a", "image"], "sum")], KERNELS, {"sum": PLANE})
    assert placed(model) == {("a", 0), ("sum", 1)}
    assert placed(model, ["a"]) == set()
    assert placed(model, ["sum"]) == {("a", 0)}


def test_an_average_between_quantized_nodes_has_a_pair() -> None:
    average = node("AveragePool", ["relu"], "mean", kernel_shape=[1, 1])
    before = [conv("image", "a"), node("Relu", ["a"], "relu"), average]
    inner = built([*before, conv("mean", "b")], KERNELS, {"b": PLANE})
    assert ("mean", 0) in placed(inner)
    last = built(before, KERNELS, {"mean": PLANE})
    assert ("mean", 0) not in placed(last)
    seen = built(
        [*before, conv("mean", "b"), node("Sigmoid", ["mean"], "s")], KERNELS, {"b": PLANE, "s": PLANE}
    )
    assert ("mean", 0) not in placed(seen), "somebody reads it as floats"


def test_what_commutes_with_rounding_has_none() -> None:
    nodes = [conv("image", "a"), node("MaxPool", ["a"], "most", kernel_shape=[1, 1]), conv("most", "b")]
    assert placed(built(nodes, KERNELS, {"b": PLANE})) == {("a", 0), ("b", 0)}


def test_inputs_of_a_concat_have_the_scale_of_its_output(tmp_path: Path) -> None:
    """Rounding twice to the same steps: the answers stay, to the last bit."""
    nodes = [conv("image", "a"), conv("image", "b"), node("Concat", ["a", "b"], "both", axis=1)]
    wide = KERNELS | {"c_w": kernel(4, 8, 1, 1), "a_w": KERNELS["a_w"] * 9}
    model = built([*nodes, conv("both", "c")], wide, {"c": PLANE})
    assert {("both", 0), ("both", 1)} <= placed(model)
    read = read_source(save(model, tmp_path / "model.onnx"))
    data = np.random.default_rng(0).normal(size=(8, 4, SIDE, SIDE)).astype(np.float32)
    calibration = image_samples_of(data)
    graph = Graph(emit(read, STATIC, calibration))
    scales = {float(graph.values(pair.input[1])) for pair in graph.all("QuantizeLinear")}
    assert len(graph.all("QuantizeLinear")) == 4
    assert len(scales) == 2, "of the image, and of all around the Concat"
    without = STATIC.model_copy(update={"operators": ("Conv",)})
    unfused = onnxruntime.SessionOptions()
    unfused.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = [
        onnxruntime.InferenceSession(emit(read, recipe, calibration), unfused).run(None, {"image": data})[0]
        for recipe in (STATIC, without)
    ]
    np.testing.assert_array_equal(*found)


def image_samples_of(data: Array) -> ArraySamples:
    return ArraySamples({"image": data})


@pytest.mark.parametrize(
    ("operator", "shape", "attributes", "axis"),
    [
        ("ConvTranspose", (4, 3, 1, 1), {"kernel_shape": [1, 1]}, 1),
        ("ConvTranspose", (4, 1, 1, 1), {"kernel_shape": [1, 1], "group": 4}, None),
        ("MatMul", (SIDE, 5), {}, 1),
        ("MatMul", (4, SIDE, 5), {}, None),
    ],
)
def test_scales_count_output_channels(
    tmp_path: Path, operator: str, shape: tuple[int, ...], attributes: dict[str, Any], axis: int | None
) -> None:
    made = node(operator, ["image", "w"], "out", **attributes)
    model = built([made], {"w": kernel(*shape)}, {"out": ["batch", None, None, None]})
    data = np.random.default_rng(0).normal(size=(4, 4, SIDE, SIDE)).astype(np.float32)
    read = read_source(save(model, tmp_path / "model.onnx"))
    quantized = emit(read, STATIC, image_samples_of(data))
    graph = Graph(quantized)
    (back,) = [entry for entry in graph.all("DequantizeLinear") if entry.input[0] in graph.constants]
    scale = graph.values(back.input[1])
    assert scale.shape == (() if axis is None else (shape[axis],))
    noise_db = sqnr_db(answers(read.data, data), answers(quantized, data))
    assert noise_db is not None
    assert noise_db > 25


def test_a_product_of_two_activations_stays_float() -> None:
    turned = node("Transpose", ["image"], "turned", perm=[0, 1, 3, 2])
    model = built([turned, node("MatMul", ["image", "turned"], "out")], {}, {"out": PLANE})
    assert place_pairs(model, OPERATORS, []).weights == ()


def test_a_weight_that_is_not_finite_stays_float() -> None:
    model = built([conv("image", "a")], {"a_w": KERNELS["a_w"] * np.float32("inf")}, {"a": PLANE})
    assert Edge("a", 1) not in place_pairs(model, OPERATORS, []).weights


def test_channels_of_zeros_and_inputs_of_zeros_are_taken(tmp_path: Path) -> None:
    weights = KERNELS["a_w"].copy()
    weights[1] = 0
    read = read_source(save(built([conv("image", "a")], {"a_w": weights}, {"a": PLANE}), tmp_path / "m.onnx"))
    zeros = np.zeros((2, 4, SIDE, SIDE), np.float32)
    model = emit(read, STATIC, image_samples_of(zeros))
    assert np.isfinite(answers(model, zeros)).all()
    assert all(
        (Graph(model).values(pair.input[1]) > 0).all() for pair in Graph(model).all("DequantizeLinear")
    )


UNSUPPORTED: list[Recipe] = [
    DynamicWi8Afp32(), StaticWi8Ai16(), WeightOnlyWi8Afp32(), WeightOnlyWi4Afp32(), QatWi8Ai8()
]  # fmt: skip


@pytest.mark.parametrize("recipe", UNSUPPORTED, ids=lambda recipe: recipe.name)
def test_recipes_that_tensorrt_has_not_are_refused_by_name(source: SourceModel, recipe: Recipe) -> None:
    with pytest.raises(UnsupportedRecipeError, match=f"tensorrt cannot have recipe {recipe.name}: .+"):
        emit(source, recipe, image_samples(4))
    assert recipe.name in UNFIT


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"symmetric_activations": False}, "symmetric_activations is needed"),
        ({"activation_type": "uint8"}, "activations are int8"),
        ({"weight_type": "uint8"}, "weights are int8"),
        ({"reduce_range": True}, "reduce_range"),
        ({"operators": ("Conv", "Softmax")}, "operators Softmax"),
    ],
)
def test_options_that_tensorrt_has_not_are_refused(
    source: SourceModel, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnsupportedRecipeError, match=words):
        emit(source, STATIC.model_copy(update=change), image_samples(4))


def test_no_calibration_is_said(source: SourceModel) -> None:
    with pytest.raises(CalibrationNeededError, match="static_wi8_ai8 needs calibration data"):
        emit(source, STATIC, None)


def test_a_quantized_model_is_not_quantized_again(source: SourceModel, tmp_path: Path) -> None:
    path = tmp_path / "quantized.onnx"
    path.write_bytes(emit_onnxruntime.emit(source, StaticWi8Ai8(), image_samples(4)))
    with pytest.raises(ModelError, match="quantized already"):
        emit(read_source(path), STATIC, image_samples(4))


def test_a_plan_for_another_model_is_refused(source: SourceModel) -> None:
    with pytest.raises(ModelError, match="does not have: no"):
        emit(source, MixedWi8Ai8(float_nodes=("no",), symmetric_activations=True), image_samples(4))


def test_a_model_without_products_gets_no_pairs(tmp_path: Path) -> None:
    read = read_source(save(elementwise(), tmp_path / "model.onnx"))
    data = np.zeros((2, 4), np.float32)
    counts = count_quantized(onnx.load_model_from_string(emit(read, STATIC, image_samples_of(data))))
    assert (counts.integer, counts.compute, counts.conversions) == (0, 0, 0)
