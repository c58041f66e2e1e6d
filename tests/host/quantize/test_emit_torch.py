"""Emitting for ExecuTorch and PyTorch Mobile: what is refused here, and what the real tools make."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from packhorse_agent.contract.manifest import TensorSpec
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
from packhorse_host.convert.convert import float_model
from packhorse_host.convert.environments import ENVIRONMENTS
from packhorse_host.convert.errors import ConversionFailedError
from packhorse_host.convert.model import FloatModel
from packhorse_host.convert.replay import replay_on
from packhorse_host.convert.sources import recognise
from packhorse_host.evaluate.samples import ArraySamples
from packhorse_host.quantize import emit_executorch, emit_pytorch_mobile, emit_torch
from packhorse_host.quantize.emit_torch import Emitted, silently
from packhorse_host.quantize.errors import (
    CalibrationNeededError,
    UnsupportedRecipeError,
    UselessQuantizationError,
)
from packhorse_host.quantize.graph import KernelCounts

SAMPLE = Path(__file__).parents[3] / "samples" / "fashion-mnist"
X = TensorSpec(name="x", datatype="FP32", shape=(1, 2))
PROGRAM = FloatModel(b"never read", "executorch", (X,), (X,))
ROWS = ArraySamples({"x": np.arange(8, dtype=np.float32).reshape(4, 2)})


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (StaticWi8Ai16(), "16 bits"),
        (WeightOnlyWi8Afp32(), "dynamic_wi8_afp32 stores the same weights"),
        (WeightOnlyWi4Afp32(), "quantize the activations too"),
        (StaticWi8Ai8(activation_type="uint8"), "uint8 activations have no kernels, only int8"),
        (StaticWi8Ai8(calibration=CalibrationMethod.ENTROPY), "calibration by entropy"),
        (StaticWi8Ai8(calibration=CalibrationMethod.PERCENTILE), "only by minmax and mse"),
        (StaticWi8Ai8(equalize=True, correct_bias=True), "equalize .*; correct_bias"),
        (MixedWi8Ai8(float_nodes=("a",), weight_type="uint8"), "weights are int8"),
        (StaticWi8Ai8(reduce_range=True), "reduce_range"),
    ],
    ids=str,
)
def test_executorch_refuses_by_name(recipe: Recipe, reason: str) -> None:
    with pytest.raises(UnsupportedRecipeError, match=reason):
        emit_executorch.emit(PROGRAM, recipe, ROWS)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (Fp16(), "half precision"),
        (StaticWi8Ai16(), "16 bits"),
        (WeightOnlyWi8Afp32(), "dynamic_wi8_afp32 stores the same weights"),
        (WeightOnlyWi4Afp32(), "4-bit"),
        (QatWi8Ai8(), "pack it for executorch"),
        (StaticWi8Ai8(), "int8 activations have no kernels, only uint8"),
        (StaticWi8Ai8(activation_type="uint8", operators=("Conv",)), "mixed_wi8_ai8 names nodes"),
        (DynamicWi8Afp32(operators=("Conv", "Gemm")), "only Gemm and MatMul"),
    ],
    ids=str,
)
def test_pytorch_mobile_refuses_by_name(recipe: Recipe, reason: str) -> None:
    with pytest.raises(UnsupportedRecipeError, match=reason):
        emit_pytorch_mobile.emit(PROGRAM, recipe, ROWS)


def test_static_recipes_need_data() -> None:
    with pytest.raises(CalibrationNeededError):
        emit_executorch.emit(PROGRAM, StaticWi8Ai8(), None)


def test_calibration_data_pass_one_sample_at_a_time(tmp_path: Path) -> None:
    class Watched(ArraySamples):
        sizes: ClassVar[list[int]] = []

        def batches(self, size: int, first: int = 0, last: int | None = None) -> Iterator[dict[str, Any]]:
            self.sizes.append(size)
            return super().batches(size, first, last)

    emit_torch._write_samples(tmp_path / "calibration", [X], Watched(ROWS.arrays))
    written = np.load(tmp_path / "calibration" / "0.npy", mmap_mode="r")
    np.testing.assert_array_equal(written, ROWS.arrays["x"])
    assert Watched.sizes == [1]


def emitted(integer: int, size: int = 10, sqnr_db: float | None = 30.0) -> Emitted:
    return Emitted(b"x" * size, KernelCounts(integer, 4), sqnr_db)


def test_a_no_op_is_refused() -> None:
    with pytest.raises(UselessQuantizationError, match="changed nothing: none of 4"):
        emit_torch._check_useful(emitted(0), StaticWi8Ai8(), 1000)


def test_growth_is_refused() -> None:
    with pytest.raises(UselessQuantizationError, match="1000 bytes before, 1000 after"):
        emit_torch._check_useful(emitted(4, 1000), DynamicWi8Afp32(), 1000)


@pytest.mark.parametrize(
    ("answers", "reason"), [([[1.0], [np.nan]], "NaN or infinity"), ([[3.0], [3.0]], "same for every input")]
)
def test_nonsense_is_refused(answers: list[list[float]], reason: str) -> None:
    expected = {"y": np.array([[1.0], [2.0]], np.float32)}
    with pytest.raises(UselessQuantizationError, match=reason):
        emit_torch._check_answers(emitted(4), StaticWi8Ai8(), expected, {"y": np.array(answers, np.float32)})


def test_a_float_model_that_answers_differently_is_refused() -> None:
    values = {"y": np.array([[1.0], [2.0]], np.float32)}
    with pytest.raises(UselessQuantizationError, match=r"30\.0 dB, at least 60"):
        emit_torch._check_answers(emitted(0), Fp32(), values, values)


@pytest.fixture(scope="module")
def program() -> FloatModel:
    if not ENVIRONMENTS["torch"].is_built and os.environ.get("PACKHORSE_BUILD_TOOLS") != "1":
        pytest.skip("the tool environment torch is not built (scripts/walk_conversions builds it)")
    return float_model(recognise(SAMPLE / "model.onnx"), "executorch", silently)


@pytest.fixture(scope="module")
def images() -> ArraySamples:
    with np.load(SAMPLE / "calibration.npz") as arrays:
        return ArraySamples({"image": arrays["image"][:32]})


pytorch_tools = [pytest.mark.conversions, pytest.mark.slow, pytest.mark.timeout(900)]


class TestRealTools:
    """The sample through torch, torchao and the runtimes themselves."""

    pytestmark = pytorch_tools

    def test_every_layer_of_a_static_program_is_integer(
        self, program: FloatModel, images: ArraySamples
    ) -> None:
        result = emit_executorch.emit(program, StaticWi8Ai8(), images)
        assert result.kernels == KernelCounts(24, 24)
        assert emit_executorch.count_integer_kernels(result.data) == result.kernels
        assert result.sqnr_db is not None and result.sqnr_db > 25
        answers = replay_on(
            "executorch", result.data, program.inputs, program.outputs, images.arrays, silently
        )
        assert answers["logits"].shape == (images.count, 10)

    def test_named_nodes_stay_float(self, program: FloatModel, images: ArraySamples) -> None:
        names = emit_torch.node_names(program)
        assert len(names) == 24
        result = emit_executorch.emit(program, MixedWi8Ai8(float_nodes=names[:2]), images)
        assert result.kernels == KernelCounts(22, 24)
        with pytest.raises(ConversionFailedError, match="does not have: nothing"):
            emit_executorch.emit(program, MixedWi8Ai8(float_nodes=("nothing",)), images)

    def test_a_static_model_for_pytorch_mobile_is_integer(
        self, program: FloatModel, images: ArraySamples
    ) -> None:
        recipe = StaticWi8Ai8(activation_type="uint8")
        result = emit_pytorch_mobile.emit(program, recipe, images)
        assert result.kernels == KernelCounts(24, 24)
        assert result.sqnr_db is not None and result.sqnr_db > 25

    def test_a_float_program_is_no_product_of_training(
        self, program: FloatModel, images: ArraySamples
    ) -> None:
        with pytest.raises(ConversionFailedError, match="this one is float"):
            emit_executorch.emit(program, QatWi8Ai8(), images)
