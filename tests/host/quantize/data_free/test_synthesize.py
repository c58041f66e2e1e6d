"""Inputs from nothing fit the model, come from what is known of it, and are the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_host.evaluate.preprocessing import (
    AudioPreprocessing,
    ImagePreprocessing,
    Preprocessing,
    TokenPreprocessing,
)
from packhorse_host.quantize.data_free.synthesize import FREE_LENGTH, FREE_SIDE_PX, synthesize
from packhorse_host.quantize.errors import ModelError
from packhorse_host.quantize.source import SourceModel, read_source
from tests.host.float_models import cnn, save
from tests.host.quantize.transform.graphs import Chain, chain

COUNT = 8


def source_of(model: Any, folder: Path) -> SourceModel:
    return read_source(save(onnx.shape_inference.infer_shapes(model), folder / "model.onnx"))


def adding(shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    """A model that takes anything of a shape."""
    value = helper.make_tensor_value_info("x", kind, shape)
    output = helper.make_tensor_value_info("y", kind, shape)
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "graph", [value], [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def embedding(rows: int) -> Any:
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "length"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "length"])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "length", 2])
    table = numpy_helper.from_array(np.ones((rows, 2), np.float32), "table")
    nodes = [
        helper.make_node("Identity", ["tokens"], ["same"]),
        helper.make_node("Gather", ["table", "same"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "axes"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["scores"]),
    ]
    constants = [table, numpy_helper.from_array(np.array([2]), "axes")]
    graph = helper.make_graph(nodes, "graph", [tokens, mask], [scores], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def gray(**changes: Any) -> ImagePreprocessing:
    content = {"layout": "NCHW", "channels": ("gray",), "height_px": 8, "width_px": 8, **changes}
    return ImagePreprocessing.model_validate(content)


@pytest.mark.parametrize(
    ("how", "low", "high"),
    [
        (gray(), 0, 1),
        (gray(formula="pixel"), 0, 255),
        (gray(mean=(0.5,), standard_deviation=(0.25,)), -2, 2),
        (None, -2, 2),
    ],
    ids=["unit", "bytes", "normalized", "undeclared"],
)
def test_images_follow_the_declared_preprocessing(
    tmp_path: Path, how: Preprocessing | None, low: float, high: float
) -> None:
    samples = synthesize(source_of(cnn(), tmp_path), how, 4 * COUNT)
    images = samples.arrays["image"]
    assert images.shape == (4 * COUNT, 1, 8, 8)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == pytest.approx((low, high))


def test_the_same_model_gets_the_same_inputs(tmp_path: Path) -> None:
    source = source_of(cnn(), tmp_path)
    assert synthesize(source, gray(), COUNT).sha256 == synthesize(source, gray(), COUNT).sha256


def test_a_model_with_a_batch_of_one(tmp_path: Path) -> None:
    assert synthesize(source_of(cnn(batch=1), tmp_path), gray(), COUNT).count == COUNT


def _normalized(build: Chain) -> Chain:
    build.conv(4)
    build.batch_norm()
    build.add("Relu")
    return build


def test_statistics_choose_where_the_model_has_some(tmp_path: Path) -> None:
    """Those of a model that saw dark pictures pick dark ones."""
    means = {}
    for level in (-1.5, 1.5):
        build = chain()
        weight = build.constant(np.ones((1, 3, 1, 1), np.float32) / 3)
        build.channels = 1
        build.add("Conv", weight, kernel_shape=[1, 1])
        parts = [np.ones(1), np.zeros(1), np.array([level]), np.full(1, 0.25)]
        build.add("BatchNormalization", *(build.constant(part.astype(np.float32)) for part in parts))
        samples = synthesize(source_of(build.model(), tmp_path), None, COUNT)
        assert samples.count == COUNT
        means[level] = samples.arrays["image"].mean()
    assert means[-1.5] < means[1.5] - 0.5


def test_every_float_input_of_a_normalized_model_is_finite(tmp_path: Path) -> None:
    samples = synthesize(source_of(_normalized(chain()).model(), tmp_path), None, COUNT)
    assert np.isfinite(samples.arrays["image"]).all()


def test_batch_normalisation_of_features_chooses_nothing(tmp_path: Path) -> None:
    """One sample has no variance there."""
    build = chain()
    build.conv(4)
    build.flatten()
    build.gemm(5)
    build.batch_norm()
    assert synthesize(source_of(build.model(), tmp_path), None, COUNT).count == COUNT


def test_tokens_come_from_the_vocabulary_and_no_mask_hides_them(tmp_path: Path) -> None:
    how = TokenPreprocessing(kind="tokens", length=12)
    samples = synthesize(source_of(embedding(1000), tmp_path), how, COUNT)
    tokens, mask = samples.arrays["tokens"], samples.arrays["attention_mask"]
    assert tokens.shape == mask.shape == (COUNT, 12)
    assert 0 <= tokens.min() < 100
    assert 900 < tokens.max() < 1000
    assert (mask == 1).all()


def test_sound(tmp_path: Path) -> None:
    how = AudioPreprocessing(kind="audio", sample_rate_hz=16_000, frame_length=400, scale="int16")
    samples = synthesize(source_of(adding(["batch", "length"]), tmp_path), how, COUNT)
    sounds = samples.arrays["x"]
    assert sounds.shape == (COUNT, 400)
    assert 300 < np.abs(sounds).max() <= 32767


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (["batch", "length", 5], (FREE_LENGTH, 5)),
        (["batch", 3, "height", "width"], (3, FREE_SIDE_PX, FREE_SIDE_PX)),
        (["batch", "height", 20, 3], (FREE_SIDE_PX, 20, 3)),
        (["batch", 7], (7,)),
    ],
)
def test_free_axes_get_a_length(tmp_path: Path, shape: list[Any], expected: tuple[int, ...]) -> None:
    samples = synthesize(source_of(adding(shape), tmp_path), None, 2)
    assert samples.arrays["x"].shape == (2, *expected)


def test_a_model_that_does_not_take_them_is_refused(tmp_path: Path) -> None:
    """It asks for a length that its shape does not tell."""
    build = adding(["batch", "length"])
    build.graph.initializer.append(numpy_helper.from_array(np.ones((1, 7), np.float32), "seven"))
    build.graph.node[0].input[1] = "seven"
    del build.graph.output[0].type.tensor_type.shape.dim[:]
    model = onnx.ModelProto()
    model.CopyFrom(build)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="give --calibration"):
        synthesize(SourceModel(model.SerializeToString(), "0" * 64, (_FREE,), ()), None, COUNT)


_FREE = TensorSpec(name="x", datatype="FP32", shape=(-1, -1))
