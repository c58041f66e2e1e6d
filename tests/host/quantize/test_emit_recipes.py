"""What each recipe but the plain static one makes of a model, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from packhorse_agent.contract.recipe import (
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
from packhorse_host.quantize.emit_onnxruntime import emit
from packhorse_host.quantize.errors import ModelError
from packhorse_host.quantize.graph import Architecture, count_kernels
from packhorse_host.quantize.half import LARGEST
from packhorse_host.quantize.source import SourceModel, read_source
from tests.host.float_models import cnn, image_samples, images, save

FLOAT_MODEL_RECIPES: list[Recipe] = [
    Fp32(),
    Fp16(),
    DynamicWi8Afp32(),
    StaticWi8Ai8(),
    StaticWi8Ai16(),
    StaticWi8Ai16(activation_type="uint16"),
    MixedWi8Ai8(float_nodes=("depthwise",)),
    WeightOnlyWi8Afp32(),
    WeightOnlyWi4Afp32(),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    return read_source(save(cnn(), tmp_path_factory.mktemp("model") / "model.onnx"))


def answers(model: bytes, data: Array) -> Array:
    found: Array = onnxruntime.InferenceSession(model).run(None, {"image": data})[0]
    return found


def operators(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(model).graph.node]


@pytest.mark.parametrize("recipe", FLOAT_MODEL_RECIPES, ids=repr)
def test_every_recipe_keeps_face_and_answers(source: SourceModel, recipe: Recipe) -> None:
    model = emit(source, recipe, image_samples(40))
    session = onnxruntime.InferenceSession(model)
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["batch", 1, 8, 8])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 4])
    data = images(64, seed=9)
    noise_db = sqnr_db(answers(source.data, data), answers(model, data))
    assert noise_db is None or noise_db > 20


def test_sixteen_bits_are_finer_than_eight(source: SourceModel) -> None:
    data, calibration = images(64, seed=9), image_samples(64)
    expected = answers(source.data, data)
    # The weights have 8 bits in both, so the noise does not vanish.
    noise_db = [
        sqnr_db(expected, answers(emit(source, recipe, calibration), data))
        for recipe in (StaticWi8Ai8(), StaticWi8Ai16())
    ]
    assert noise_db[0] is not None
    assert noise_db[1] is not None
    assert noise_db[1] > noise_db[0] + 2


@pytest.mark.parametrize(("opset", "domain"), [(17, "com.microsoft"), (21, "")])
def test_sixteen_bits_use_pairs_that_the_oldest_runtime_knows(
    tmp_path: Path, opset: int, domain: str
) -> None:
    """The standard ones know 16 bits from operator set 21 on, ONNX Runtime's own always did."""
    source = read_source(save(cnn(opset), tmp_path / "model.onnx"))
    model = onnx.load_model_from_string(emit(source, StaticWi8Ai16(), image_samples(8)))
    assert {node.domain for node in model.graph.node if node.op_type == "QuantizeLinear"} == {domain}
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == opset


def test_a_mixed_plan_leaves_its_nodes_float(source: SourceModel) -> None:
    calibration = image_samples(16)
    for nodes in (("stem",), ("depthwise", "project")):
        model = emit(source, MixedWi8Ai8(float_nodes=nodes), calibration)
        counts = count_kernels(model, Architecture.AARCH64)
        assert (counts.integer, counts.compute) == (4 - len(nodes), 4)


def test_dynamic_leaves_its_nodes_float(source: SourceModel) -> None:
    assert "MatMulInteger" not in operators(emit(source, DynamicWi8Afp32(float_nodes=("logits",)), None))


@pytest.mark.parametrize("recipe", [MixedWi8Ai8(float_nodes=("no",)), DynamicWi8Afp32(float_nodes=("no",))])
def test_a_plan_for_another_model_is_refused(source: SourceModel, recipe: Recipe) -> None:
    with pytest.raises(ModelError, match="does not have: no"):
        emit(source, recipe, image_samples(8))


def half(model: Any, tmp_path: Path) -> bytes:
    return emit(read_source(save(model, tmp_path / "model.onnx")), Fp16(), None)


def test_half_precision_halves_the_weights(source: SourceModel) -> None:
    model = onnx.load_model_from_string(emit(source, Fp16(), None))
    assert {tensor.data_type for tensor in model.graph.initializer if tensor.dims} == {TensorProto.FLOAT16}


def test_a_weight_that_half_precision_cannot_hold_stays_single(tmp_path: Path) -> None:
    """Cut off at 65,504 it would be another number."""
    model = cnn()
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "dense_b")
    large = np.array([1e5, -2e5, 0, 1], np.float32)
    weights.CopyFrom(numpy_helper.from_array(large, "dense_b"))
    emitted = onnx.load_model_from_string(half(model, tmp_path))
    kept = [numpy_helper.to_array(tensor) for tensor in emitted.graph.initializer]
    assert any(array.dtype == np.float32 and np.array_equal(array, large) for array in kept)
    assert (np.abs(answers(emitted.SerializeToString(), images(4))) > LARGEST).any()


# Models that came quantized


def trained(*, float_weights: bool) -> Any:
    """Q/DQ pairs around a product, as exporters of quantization-aware training leave them."""
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    constants = [
        numpy_helper.from_array(np.float32(0.02), "x_scale"),
        numpy_helper.from_array(np.uint8(128), "x_zero"),
        numpy_helper.from_array(np.float32(0.03), "w_scale"),
        numpy_helper.from_array(np.int8(0), "w_zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "x_scale", "x_zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "x_scale", "x_zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["wq", "w_scale", "w_zero"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["logits"]),
    ]
    if float_weights:
        constants.append(numpy_helper.from_array(weights, "w"))
        nodes.insert(0, helper.make_node("QuantizeLinear", ["w", "w_scale", "w_zero"], ["wq"]))
    else:
        steps = np.clip(np.rint(weights / 0.03), -128, 127).astype(np.int8)
        constants.append(numpy_helper.from_array(steps, "wq"))
    value = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64]) for name in ("image", "logits")
    ]
    graph = helper.make_graph(nodes, "trained", value[:1], value[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("float_weights", [True, False])
def test_a_model_that_training_quantized_is_passed_on(tmp_path: Path, float_weights: bool) -> None:
    """With the same answers, and weights in 8 bits whichever way they came."""
    source = read_source(save(trained(float_weights=float_weights), tmp_path / "model.onnx"))
    assert source.quantized
    model = emit(source, QatWi8Ai8(), None)
    data = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    np.testing.assert_array_equal(answers(model, data), answers(source.data, data))
    assert len(model) < 64 * 64 * 2
    assert operators(model).count("QuantizeLinear") == 1


@pytest.mark.parametrize("recipe", FLOAT_MODEL_RECIPES, ids=repr)
def test_nothing_is_quantized_twice(tmp_path: Path, recipe: Recipe) -> None:
    source = read_source(save(trained(float_weights=True), tmp_path / "model.onnx"))
    with pytest.raises(ModelError, match=r"quantized already.*--recipe qat_wi8_ai8"):
        emit(source, recipe, image_samples(8))


def test_what_this_tool_made_is_recognised_as_quantized(tmp_path: Path, source: SourceModel) -> None:
    for recipe in (StaticWi8Ai8(), StaticWi8Ai16(), DynamicWi8Afp32()):
        path = tmp_path / "again.onnx"
        path.write_bytes(emit(source, recipe, image_samples(8)))
        assert read_source(path).quantized, recipe.name


def test_a_float_model_is_not_passed_on_as_trained(source: SourceModel) -> None:
    assert not source.quantized
    with pytest.raises(ModelError, match="no Q/DQ pairs"):
        emit(source, QatWi8Ai8(), None)
