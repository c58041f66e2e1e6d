"""Quantized models keep their face, really are integer, and are the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from packhorse_agent.contract.recipe import (
    CalibrationMethod,
    DynamicWi8Afp32,
    Fp32,
    Recipe,
    StaticWi8Ai8,
)
from packhorse_agent.runtime.golden import sqnr_db
from packhorse_host.quantize.emit_onnxruntime import emit
from packhorse_host.quantize.errors import CalibrationNeededError
from packhorse_host.quantize.graph import Architecture, KernelCounts, count_kernels
from packhorse_host.quantize.source import SourceModel, read_source
from tests.host.float_models import cnn, image_samples, images, save

QUANTIZING: list[Recipe] = [DynamicWi8Afp32(), StaticWi8Ai8(), StaticWi8Ai8(activation_type="uint8")]
ALL_INTEGER = KernelCounts(4, 4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    return read_source(save(cnn(), tmp_path_factory.mktemp("model") / "model.onnx"))


def operators(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(model).graph.node]


def test_fp32_is_the_source_itself(source: SourceModel) -> None:
    assert emit(source, Fp32(), None) == source.data


def test_static_makes_every_kernel_integer_on_arm(source: SourceModel) -> None:
    """Counted as ARM fuses, on whatever machine this runs."""
    model = emit(source, StaticWi8Ai8(), image_samples(64))
    assert count_kernels(model, Architecture.AARCH64) == ALL_INTEGER


def test_static_makes_every_kernel_integer_on_x86(source: SourceModel) -> None:
    model = emit(source, StaticWi8Ai8(activation_type="uint8"), image_samples(64))
    assert count_kernels(model, Architecture.X86_64) == ALL_INTEGER


def test_signed_activations_leave_floats_around_a_residual_on_x86(source: SourceModel) -> None:
    """The reason why x86 gets unsigned ones."""
    model = emit(source, StaticWi8Ai8(), image_samples(64))
    assert count_kernels(model, Architecture.X86_64).integer < ALL_INTEGER.integer


def test_relus_vanish_into_asymmetric_ranges(source: SourceModel) -> None:
    assert "Relu" not in operators(emit(source, StaticWi8Ai8(), image_samples(64)))


def test_dynamic_never_makes_the_slow_integer_convolution(source: SourceModel) -> None:
    """Only matrix products: ConvInteger is five times slower than FP32."""
    found = operators(emit(source, DynamicWi8Afp32(), None))
    assert "ConvInteger" not in found
    assert found.count("Conv") == 3
    assert "MatMulInteger" in found


@pytest.mark.parametrize("recipe", QUANTIZING, ids=lambda recipe: recipe.name)
def test_the_face_of_the_model_stays(source: SourceModel, recipe: Recipe) -> None:
    """Inputs and outputs keep names, types and shapes; a batch of any length runs."""
    session = onnxruntime.InferenceSession(emit(source, recipe, image_samples(16)))
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["batch", 1, 8, 8])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 4])
    assert session.run(None, {"image": images(3)})[0].shape == (3, 4)


@pytest.mark.parametrize("recipe", QUANTIZING, ids=lambda recipe: recipe.name)
def test_answers_stay_close(source: SourceModel, recipe: Recipe) -> None:
    """Above 20 dB: a tenth of the signal, on data it was not calibrated with."""
    data = {"image": images(64, seed=9)}
    float_session = onnxruntime.InferenceSession(source.data)
    session = onnxruntime.InferenceSession(emit(source, recipe, image_samples(64)))
    noise = sqnr_db(float_session.run(None, data)[0], session.run(None, data)[0])
    assert noise is not None
    assert noise > 20


@pytest.mark.parametrize("recipe", QUANTIZING, ids=lambda recipe: recipe.name)
def test_the_same_input_gives_the_same_bytes(source: SourceModel, recipe: Recipe) -> None:
    calibration = image_samples(16)
    assert emit(source, recipe, calibration) == emit(source, recipe, calibration)


@pytest.mark.parametrize("recipe", QUANTIZING, ids=lambda recipe: recipe.name)
def test_nothing_is_carried_that_a_device_does_not_need(source: SourceModel, recipe: Recipe) -> None:
    """No shapes of inner tensors, no long names, no operator sets that are not used."""
    model = onnx.load_model_from_string(emit(source, recipe, image_samples(16)))
    assert not model.graph.value_info
    assert not model.metadata_props
    assert [entry.domain for entry in model.opset_import] == [""]
    assert max(len(node.name) for node in model.graph.node) <= 5


def test_final_probabilities_stay_float(tmp_path: Path) -> None:
    """256 levels of probability would tie the best classes."""
    source = read_source(save(cnn(softmax=True), tmp_path / "model.onnx"))
    model = onnx.load_model_from_string(emit(source, StaticWi8Ai8(), image_samples(32)))
    assert model.graph.node[-1].op_type == "Softmax"
    session = onnxruntime.InferenceSession(model.SerializeToString())
    answers = session.run(None, {"image": images(64)})[0]
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)


def test_a_batch_fixed_to_one_calibrates_sample_by_sample(tmp_path: Path) -> None:
    """With the same ranges as batches give."""
    one = read_source(save(cnn(batch=1), tmp_path / "one.onnx"))
    model = emit(one, StaticWi8Ai8(), image_samples(40))
    assert count_kernels(model, Architecture.AARCH64) == ALL_INTEGER


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_every_calibration_method(source: SourceModel, method: CalibrationMethod) -> None:
    """The number of samples need not be a multiple of the batch."""
    model = emit(source, StaticWi8Ai8(calibration=method), image_samples(33))
    assert count_kernels(model, Architecture.AARCH64) == ALL_INTEGER


def test_outliers_move_the_ranges(source: SourceModel) -> None:
    """All samples count, also those in the last, partial batch."""
    calm = image_samples(33)
    wild = image_samples(33)
    wild.arrays["image"][32] *= 100
    assert emit(source, StaticWi8Ai8(), calm) != emit(source, StaticWi8Ai8(), wild)


def test_static_without_calibration(source: SourceModel) -> None:
    with pytest.raises(CalibrationNeededError):
        emit(source, StaticWi8Ai8(), None)
