"""Quantizing `.tflite` models with ai-edge-quantizer: what comes out, and what is refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_quantizer", reason="ai-edge-quantizer is not installed (packhorse[litert-pack])")

from ai_edge_litert import schema_py_generated as schema

from packhorse_agent.contract.manifest import RuntimeRequirement, TensorSpec
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
from packhorse_agent.runtime.base import open_model
from packhorse_agent.runtime.datatypes import Array
from packhorse_agent.runtime.golden import worst_sqnr_db
from packhorse_host.convert.model import FloatModel
from packhorse_host.evaluate.samples import ArraySamples
from packhorse_host.quantize.emit_litert import check_useful, emit, node_names
from packhorse_host.quantize.errors import (
    CalibrationNeededError,
    ModelError,
    UnsupportedRecipeError,
    UselessQuantizationError,
)
from packhorse_host.quantize.litert_graph import (
    count_integer_kernels,
    nodes,
    read_graph,
    signature_names,
    write_graph,
)
from tests.agent.tflite_models import Builder, built, linear_tflite

REPOSITORY = Path(__file__).parents[3]
IMAGE = TensorSpec(name="image", datatype="FP32", shape=(1, 1, 28, 28))
LOGITS = TensorSpec(name="logits", datatype="FP32", shape=(1, 10))
DYNAMIC = DynamicWi8Afp32(operators=("Conv", "Gemm", "MatMul"))
COMPUTE_KERNELS = 24
WIDE = np.random.default_rng(2).normal(size=(256, 64)).astype(np.float32)


@cache
def sample() -> FloatModel:
    """The sample model, converted (see tests/host/convert/test_walk.py, which makes the file anew)."""
    data = (REPOSITORY / "tests" / "data" / "fashion-mnist.tflite").read_bytes()
    return FloatModel(data, "litert", (IMAGE,), (LOGITS,))


@cache
def images(count: int = 24) -> ArraySamples:
    with np.load(REPOSITORY / "samples" / "fashion-mnist" / "calibration.npz") as arrays:
        return ArraySamples({"image": arrays["image"][:count]})


def linear(*, signature: bool = True) -> FloatModel:
    names = ("x", "scores") if signature else ("x_tensor", "scores_tensor")
    return FloatModel(
        linear_tflite(WIDE, signature=signature),
        "litert",
        (TensorSpec(name=names[0], datatype="FP32", shape=(-1, 256)),),
        (TensorSpec(name=names[1], datatype="FP32", shape=(-1, 64)),),
    )


def answers(model: FloatModel, data: bytes, samples: ArraySamples, folder: Path) -> dict[str, Array]:
    path = folder / "model.tflite"
    path.write_bytes(data)
    requirement = RuntimeRequirement(name="litert", minimum_version="2.1")
    session = open_model(path, requirement, model.inputs, model.outputs)
    results = [session.run(feed) for feed in samples.batches(1)]
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


def sqnr_db(data: bytes, folder: Path) -> float:
    unseen = images(48).take(range(24, 48))
    reference = answers(sample(), sample().data, unseen, folder)
    figure = worst_sqnr_db(reference, answers(sample(), data, unseen, folder))
    assert figure is not None
    return figure


CASES = [
    (Fp16(), 0, 60.0, 0.60),
    (DYNAMIC, COMPUTE_KERNELS, 30.0, 0.50),
    (WeightOnlyWi8Afp32(), 0, 30.0, 0.50),
    (StaticWi8Ai8(), COMPUTE_KERNELS, 22.0, 0.60),
    (StaticWi8Ai16(), COMPUTE_KERNELS, 30.0, 0.65),
    (WeightOnlyWi4Afp32(block_size=None), 0, 20.0, 0.99),
]


@pytest.mark.parametrize(
    ("recipe", "integer", "least_db", "most_size"), CASES, ids=lambda case: str(case)[:24]
)
def test_every_recipe_shrinks_the_sample_and_stays_near_it(
    recipe: Recipe, integer: int, least_db: float, most_size: float, tmp_path: Path
) -> None:
    data = emit(sample(), recipe, images())
    kernels = count_integer_kernels(data)
    assert (kernels.integer, kernels.compute) == (integer, COMPUTE_KERNELS)
    assert len(data) < most_size * len(sample().data)
    assert sqnr_db(data, tmp_path) > least_db


def test_fp32_is_the_model_as_it_came() -> None:
    assert emit(sample(), Fp32(), None) == sample().data


def test_the_same_input_gives_the_same_bytes() -> None:
    assert emit(sample(), StaticWi8Ai8(), images()) == emit(sample(), StaticWi8Ai8(), images())


def test_the_nodes_of_a_mixed_recipe_stay_in_floating_point(tmp_path: Path) -> None:
    first, *_, last = node_names(sample().data)
    data = emit(sample(), MixedWi8Ai8(float_nodes=(first, last)), images())
    kernels = count_integer_kernels(data)
    assert (kernels.integer, kernels.compute) == (COMPUTE_KERNELS - 2, COMPUTE_KERNELS)
    assert sqnr_db(data, tmp_path) > 22


def test_a_model_without_a_signature_gets_one_for_calibration(tmp_path: Path) -> None:
    model = linear(signature=False)
    x = np.random.default_rng(0).normal(size=(16, 256)).astype(np.float32)
    samples = ArraySamples({"x_tensor": x})
    data = emit(model, StaticWi8Ai8(), samples)
    assert signature_names(read_graph(data)) is not None
    assert count_integer_kernels(data).integer == 1
    got = answers(model, data, samples, tmp_path)["scores_tensor"]
    assert worst_sqnr_db({"s": x @ WIDE}, {"s": got}) > 25  # type: ignore[operator]


def test_static_recipes_need_calibration() -> None:
    with pytest.raises(CalibrationNeededError):
        emit(sample(), StaticWi8Ai8(), None)


def test_half_precision_weights_are_quantized_all_the_same(tmp_path: Path) -> None:
    """The quantizer by itself leaves such a model as it is, without a word."""
    half = FloatModel(emit(sample(), Fp16(), None), "litert", (IMAGE,), (LOGITS,))
    data = emit(half, DYNAMIC, None)
    assert count_integer_kernels(data).integer == COMPUTE_KERNELS
    assert len(data) < len(half.data)
    assert not any("FLOAT16" in node.input_types for node in nodes(read_graph(data)))
    assert sqnr_db(data, tmp_path) > 30


@pytest.mark.parametrize("first", [DYNAMIC, StaticWi8Ai8(), WeightOnlyWi8Afp32()], ids=lambda r: str(r.name))
@pytest.mark.parametrize("second", [Fp32(), Fp16(), DYNAMIC, StaticWi8Ai8()], ids=lambda r: str(r.name))
def test_nothing_is_quantized_twice(first: Recipe, second: Recipe) -> None:
    once = FloatModel(emit(sample(), first, images(4)), "litert", (IMAGE,), (LOGITS,))
    with pytest.raises(ModelError, match="quantized already"):
        emit(once, second, images(4))


def test_what_training_has_quantized_passes_through_as_it_is() -> None:
    once = emit(sample(), StaticWi8Ai8(), images(4))
    assert emit(FloatModel(once, "litert", (IMAGE,), (LOGITS,)), QatWi8Ai8(), None) == once
    with pytest.raises(ModelError, match="this one is float"):
        emit(sample(), QatWi8Ai8(), None)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (StaticWi8Ai8(calibration=CalibrationMethod.PERCENTILE), "calibration by percentile"),
        (StaticWi8Ai8(calibration=CalibrationMethod.ENTROPY), "calibration by entropy"),
        (StaticWi8Ai16(calibration=CalibrationMethod.MSE), "calibration by mse"),
        (StaticWi8Ai8(activation_type="uint8"), "uint8 activations"),
        (StaticWi8Ai8(weight_type="uint8"), "weights are int8"),
        (StaticWi8Ai8(equalize=True, correct_bias=True), "equalize.*correct_bias"),
        (StaticWi8Ai8(operators=("Conv", "Einsum")), "Einsum"),
        (WeightOnlyWi4Afp32(), "blocks"),
        (DynamicWi8Afp32(float_nodes=("a",)), "float_nodes"),
    ],
)
def test_options_that_are_not_to_be_had_are_refused_by_name(recipe: Recipe, words: str) -> None:
    with pytest.raises(UnsupportedRecipeError, match=words):
        emit(sample(), recipe, images())


@pytest.mark.parametrize("recipe", [DYNAMIC, WeightOnlyWi4Afp32(block_size=None)], ids=lambda r: str(r.name))
def test_recipes_that_tflite_runtime_gets_wrong_are_refused_for_it(recipe: Recipe) -> None:
    source = FloatModel(sample().data, "tflite-runtime", (IMAGE,), (LOGITS,))
    with pytest.raises(UnsupportedRecipeError, match=r"tflite-runtime 2\.14"):
        emit(source, recipe, None)


def test_a_model_without_weights_is_found_to_be_unchanged() -> None:
    def build(model: Builder) -> tuple[dict[str, int], dict[str, int]]:
        x, y = model.tensor("x_tensor", [1, 64]), model.tensor("y_tensor", [1, 64])
        options = (schema.BuiltinOptions.AddOptions, schema.AddOptionsT())
        model.operator(schema.BuiltinOperator.ADD, [x, x], [y], options)
        return {"x": x}, {"y": y}

    specs = [TensorSpec(name=name, datatype="FP32", shape=(1, 64)) for name in "xy"]
    source = FloatModel(built(build), "litert", (specs[0],), (specs[1],))
    with pytest.raises(UselessQuantizationError, match="changed nothing"):
        emit(source, DYNAMIC, None)


def test_a_model_that_grows_is_refused() -> None:
    tiny = FloatModel(
        linear_tflite(np.ones((4, 3), np.float32)),
        "litert",
        (TensorSpec(name="x", datatype="FP32", shape=(-1, 4)),),
        (TensorSpec(name="scores", datatype="FP32", shape=(-1, 3)),),
    )
    with pytest.raises(UselessQuantizationError, match="does not make the model smaller"):
        emit(tiny, WeightOnlyWi8Afp32(), None)


def _with_weight_scales(data: bytes, value: float) -> bytes:
    model = read_graph(data)
    for tensor in model.subgraphs[0].tensors:
        if tensor.name == b"weights":
            tensor.quantization.scale = np.full(len(tensor.quantization.scale), value, np.float32)
    return write_graph(model)


@pytest.mark.parametrize(("scale", "words"), [(0.0, "same for every input"), (np.nan, "NaN or infinity")])
def test_outputs_that_say_nothing_are_refused(scale: float, words: str) -> None:
    recipe = WeightOnlyWi8Afp32()
    broken = _with_weight_scales(emit(linear(), recipe, None), scale)
    with pytest.raises(UselessQuantizationError, match=words):
        check_useful(linear(), broken, recipe, None)


BAD_FILES: dict[str, Any] = {
    "empty": b"",
    "another format": b"PK\x03\x04 and so on",
    "only the magic": b"\x1c\0\0\0TFL3",
    "truncated": linear_tflite(WIDE)[-2000:],
    "cut short": linear_tflite(WIDE)[:200],
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_what_is_no_model_is_refused(case: str) -> None:
    with pytest.raises(ModelError):
        emit(FloatModel(BAD_FILES[case], "litert", (IMAGE,), (LOGITS,)), DYNAMIC, None)


def test_the_samples_stream_one_by_one() -> None:
    class Watched:
        """Counts what is asked for at once."""

        count, sha256, largest = 12, "0" * 64, 0

        def take(self, indexes: Any) -> ArraySamples:
            self.largest = max(self.largest, len(list(indexes)))
            return images().take(indexes)

        def batches(self, size: int, first: int = 0, last: int | None = None) -> Any:
            self.largest = max(self.largest, size)
            yield from images(self.count).batches(size, first, last)

    watched = Watched()
    emit(sample(), StaticWi8Ai8(), watched)
    assert watched.largest <= 8
