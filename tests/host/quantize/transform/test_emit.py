"""What `equalize` and `correct_bias` of a static recipe do to the model that comes out."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest

from packhorse_agent.contract.recipe import MixedWi8Ai8, Recipe, StaticWi8Ai8, StaticWi8Ai16
from packhorse_agent.runtime.golden import sqnr_db
from packhorse_host.quantize.emit_onnxruntime import emit
from packhorse_host.quantize.graph import Architecture, count_kernels
from packhorse_host.quantize.source import SourceModel, read_source
from tests.host.float_models import cnn, image_samples, images, save
from variants_builder.hard import make_hard


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    model = make_hard(cnn(), 5.0, seed=0)
    return read_source(save(model, tmp_path_factory.mktemp("model") / "model.onnx"))


def noise_db(source: SourceModel, recipe: Recipe) -> float:
    data = {"image": images(64, seed=9)}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = emit(source, recipe, image_samples(64))
    expected = onnxruntime.InferenceSession(source.data).run(None, data)[0]
    noise = sqnr_db(expected, onnxruntime.InferenceSession(model, options).run(None, data)[0])
    assert noise is not None
    return noise


BOTH = {"equalize": True, "correct_bias": True}


@pytest.mark.parametrize(
    "recipe",
    [
        StaticWi8Ai8(),
        StaticWi8Ai16(),
        MixedWi8Ai8(float_nodes=("stem",)),
    ],
    ids=lambda recipe: recipe.name,
)
def test_they_bring_a_hard_model_back(source: SourceModel, recipe: StaticWi8Ai8) -> None:
    assert noise_db(source, recipe.model_copy(update=BOTH)) > noise_db(source, recipe) - 1
    assert noise_db(source, recipe.model_copy(update=BOTH)) > 20


def test_biases_help_where_channels_stay_uneven(source: SourceModel) -> None:
    plain = StaticWi8Ai8(per_channel=False)
    assert noise_db(source, plain.model_copy(update={"correct_bias": True})) > noise_db(source, plain)


def test_the_kernels_stay_integer(source: SourceModel) -> None:
    plain, both = (emit(source, recipe, image_samples(32)) for recipe in (StaticWi8Ai8(), _both()))
    for architecture in Architecture:
        assert count_kernels(both, architecture) == count_kernels(plain, architecture)


def test_the_same_input_gives_the_same_bytes(source: SourceModel) -> None:
    first, second = (emit(source, _both(), image_samples(32)) for _ in range(2))
    assert first == second
    onnx.checker.check_model(onnx.load_model_from_string(first))


def _both() -> StaticWi8Ai8:
    return StaticWi8Ai8(equalize=True, correct_bias=True)
