"""Recipes on models harder than a plain stack of layers: an answer that holds, or a clear refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.manifest import RuntimeRequirement
from packhorse_agent.contract.recipe import (
    CalibrationMethod,
    DynamicWi8Afp32,
    Fp16,
    Recipe,
    StaticWi8Ai8,
    StaticWi8Ai16,
    WeightOnlyWi4Afp32,
    WeightOnlyWi8Afp32,
)
from packhorse_agent.runtime.golden import sqnr_db
from packhorse_host.evaluate.runner import open_session
from packhorse_host.evaluate.samples import ArraySamples
from packhorse_host.quantize.emit_onnxruntime import emit
from packhorse_host.quantize.errors import ActivationError
from packhorse_host.quantize.graph import Architecture, count_kernels
from packhorse_host.quantize.source import SourceModel, read_source
from tests.host.float_models import cnn, image_samples, save
from tests.host.quantize.odd_models import (
    WIDTH,
    WORDS,
    branching,
    dead,
    dividing,
    embedding,
    looping,
    masked,
    sharing,
)

RECIPES: list[Recipe] = [
    Fp16(),
    DynamicWi8Afp32(),
    StaticWi8Ai8(),
    StaticWi8Ai8(activation_type="uint8"),
    StaticWi8Ai16(),
    WeightOnlyWi8Afp32(),
    WeightOnlyWi4Afp32(),
]
REQUIREMENT = RuntimeRequirement(name="onnxruntime", minimum_version="1.20", providers=("cpu",), threads=1)


def vectors(count: int, seed: int = 0) -> ArraySamples:
    stream = np.random.default_rng(seed)
    return ArraySamples({"x": stream.standard_normal((count, WIDTH)).astype(np.float32)})


def sentences(count: int, seed: int = 0) -> ArraySamples:
    return ArraySamples({"ids": np.random.default_rng(seed).integers(0, WORDS, (count, 11))})


def noise_db(source: SourceModel, model: bytes, data: ArraySamples) -> float | None:
    """With the kernels that devices use: exact ones where the processor would saturate."""
    runs = [
        open_session(content, REQUIREMENT, source.inputs, source.outputs).run(data.arrays)["y"]
        for content in (source.data, model)
    ]
    assert np.isfinite(runs[1]).all()
    return sqnr_db(*runs)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize(
    "model", [branching, looping, dead, embedding, masked, sharing], ids=lambda model: model.__name__
)
def test_odd_models_quantize(tmp_path: Path, recipe: Recipe, model: Callable[[], Any]) -> None:
    """Bodies of branches and loops stay as they are; masks and dead layers do no harm."""
    source = read_source(save(model(), tmp_path / "model.onnx"))
    data = sentences if model is embedding else vectors
    emitted = emit(source, recipe, data(40))
    noise = noise_db(source, emitted, data(40, seed=9))
    assert noise is None or noise > (12 if recipe.name == "weight_only_wi4_afp32" else 25)


@pytest.mark.parametrize("depth", [-1e4, -1e9, -3.4e38, -np.inf])
def test_masks_of_any_depth_stay_float(tmp_path: Path, depth: float) -> None:
    """The products around them do not."""
    source = read_source(save(masked(depth), tmp_path / "model.onnx"))
    emitted = emit(source, StaticWi8Ai8(), vectors(40))
    assert count_kernels(emitted, Architecture.AARCH64).integer == 2
    noise = noise_db(source, emitted, vectors(40, seed=9))
    assert noise is None or noise > 25


@pytest.mark.parametrize("opset", [11, 12, 13, 17])
def test_tables_of_words_per_channel(tmp_path: Path, opset: int) -> None:
    """Whole tables are 8 bits too, by one scale: a Gather has no channels."""
    source = read_source(save(embedding(opset), tmp_path / "model.onnx"))
    emitted = emit(source, StaticWi8Ai8(), sentences(16))
    assert len(emitted) < len(source.data) / 3
    assert count_kernels(emitted, Architecture.AARCH64).integer == 2


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_one_sample_calibrates(tmp_path: Path, method: CalibrationMethod) -> None:
    source = read_source(save(looping(), tmp_path / "model.onnx"))
    one = vectors(1)
    emitted = emit(source, StaticWi8Ai8(calibration=method, percentile=100.0), one)
    noise = noise_db(source, emitted, one)
    assert noise is None or noise > 15


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_infinity_on_the_way_is_the_datas_fault(tmp_path: Path, method: CalibrationMethod) -> None:
    source = read_source(save(dividing(), tmp_path / "model.onnx"))
    data = vectors(40)
    data.arrays["x"][35, 3] = 0.0
    with pytest.raises(ActivationError, match="`inverse`") as caught:
        emit(source, StaticWi8Ai8(calibration=method), data)
    assert caught.value.exit_code is ExitCode.BAD_INPUT


def test_nan_in_the_calibration_data(tmp_path: Path) -> None:
    """Files are checked when they are read; other sources of samples only here."""
    source = read_source(save(looping(), tmp_path / "model.onnx"))
    data = vectors(40)
    data.arrays["x"][35, 3] = np.nan
    with pytest.raises(ActivationError, match="`x`"):
        emit(source, StaticWi8Ai8(), data)


def test_free_axes_take_the_length_of_the_data(tmp_path: Path) -> None:
    """No axis but the samples' needs a length in the model."""
    source = read_source(save(embedding(), tmp_path / "model.onnx"))
    assert source.inputs[0].shape == (-1, -1)
    emitted = emit(source, StaticWi8Ai8(), sentences(16))
    longer = ArraySamples({"ids": np.random.default_rng(5).integers(0, WORDS, (3, 29))})
    noise = noise_db(source, emitted, longer)
    assert noise is None or noise > 20


def test_names_that_the_quantizer_would_make_itself(tmp_path: Path) -> None:
    """A bias that two layers share is copied under its name with a 1; the model has a tensor of that name."""
    model = cnn()
    for node in model.graph.node:
        node.input[:] = ["stem_b" if name == "depthwise_b" else name for name in node.input]
        node.input[:] = [
            name.replace("pooled", "stem_b1").replace("flat", "image_scale") for name in node.input
        ]
        node.output[:] = [
            name.replace("pooled", "stem_b1").replace("flat", "image_scale") for name in node.output
        ]
    source = read_source(save(model, tmp_path / "model.onnx"))
    for recipe in (StaticWi8Ai8(), StaticWi8Ai16()):
        emitted = emit(source, recipe, image_samples(16))
        assert count_kernels(emitted, Architecture.AARCH64).compute == 4
