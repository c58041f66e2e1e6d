"""Weights in few bits: how far they are from the float ones, and what stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from packhorse_agent.contract.recipe import WeightOnlyWi4Afp32, WeightOnlyWi8Afp32
from packhorse_host.quantize.errors import UnsupportedRecipeError
from packhorse_host.quantize.graph import Level, optimized
from packhorse_host.quantize.weight_only import eight_bit_weights, four_bit_weights, pack_four_bit

Floats = npt.NDArray[np.float32]
ROWS, COLUMNS = 48, 24


def matrix(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def product(node: Any, *constants: tuple[str, Floats], extra: tuple[Any, ...] = ()) -> Any:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]) for name in "xy"]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants]
    graph = helper.make_graph([node, *extra], "product", value[:1], value[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def answers(model: Any, x: Floats) -> Floats:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found: Floats = session.run(None, {"x": x})[0]
    return found


def operators(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


MATMUL = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
GEMMS = [
    (helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="product"), (ROWS, COLUMNS)),
    (helper.make_node("Gemm", ["x", "w"], ["y"], name="product"), (ROWS, COLUMNS)),
    (helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="product", transB=1), (COLUMNS, ROWS)),
]
PRODUCTS = [(MATMUL, (ROWS, COLUMNS)), *GEMMS]


@pytest.mark.parametrize(("node", "shape"), PRODUCTS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_eight_bits_are_close(node: Any, shape: tuple[int, int], per_channel: bool) -> None:
    """Each channel by its own scale, whichever axis the operator counts channels on."""
    weights = matrix(*shape)
    weights *= np.logspace(-3, 0, COLUMNS, dtype=np.float32).reshape(
        (COLUMNS, 1) if shape[0] == COLUMNS else (1, COLUMNS)
    )
    model = product(node, ("w", weights), ("b", matrix(COLUMNS)))
    smaller = eight_bit_weights(model, WeightOnlyWi8Afp32(per_channel=per_channel))
    x = matrix(5, ROWS, seed=1)
    errors = np.abs(answers(smaller, x) - answers(model, x))
    largest = np.abs(weights).max(axis=shape.index(ROWS)) if per_channel else np.abs(weights).max()
    assert (errors <= np.abs(x).sum(axis=1)[:, None] * largest / 127 / 2 + 1e-5).all()
    assert len(smaller.SerializeToString()) < len(model.SerializeToString())


def test_the_runtime_folds_eight_bits_when_it_loads_them() -> None:
    """Nothing is left of them in what runs: so it is not slower than FP32."""
    model = eight_bit_weights(product(MATMUL, ("w", matrix(ROWS, COLUMNS))), WeightOnlyWi8Afp32())
    assert operators(model) == ["Cast", "Mul", "MatMul"]
    assert operators(optimized(model.SerializeToString(), Level.BASIC)) == ["MatMul"]


def test_a_weight_that_two_nodes_share_is_stored_once() -> None:
    square = matrix(ROWS, ROWS)
    first = helper.make_node("MatMul", ["x", "w"], ["inner"], name="first")
    second = helper.make_node("MatMul", ["inner", "w"], ["y"], name="second")
    model = product(first, ("w", square), extra=(second,))
    smaller = eight_bit_weights(model, WeightOnlyWi8Afp32())
    assert operators(smaller) == ["Cast", "Mul", "MatMul", "MatMul"]
    four = four_bit_weights(model, WeightOnlyWi4Afp32())
    assert operators(four) == ["MatMulNBits", "MatMulNBits"]
    assert "w" not in [tensor.name for tensor in four.graph.initializer]


@pytest.mark.parametrize("change", [eight_bit_weights, four_bit_weights])
def test_dead_channels_stay_dead(change: Any) -> None:
    weights = matrix(ROWS, COLUMNS)
    weights[:, 3] = 0
    recipe = WeightOnlyWi8Afp32() if change is eight_bit_weights else WeightOnlyWi4Afp32()
    found = answers(change(product(MATMUL, ("w", weights)), recipe), matrix(5, ROWS, seed=1))
    assert np.isfinite(found).all()
    assert not found[:, 3].any()


def test_small_weights_stay_float() -> None:
    """The nodes would weigh more than what they save."""
    model = product(MATMUL, ("w", matrix(8, 8)))
    assert operators(eight_bit_weights(model, WeightOnlyWi8Afp32())) == ["MatMul"]
    assert operators(four_bit_weights(model, WeightOnlyWi4Afp32())) == ["MatMul"]


@pytest.mark.parametrize(
    "attributes", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}], ids=["alpha", "beta", "transA"]
)
def test_a_gemm_that_does_more_stays_float(attributes: dict[str, Any]) -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="product", **attributes)
    model = product(node, ("w", matrix(ROWS, COLUMNS)), ("b", matrix(COLUMNS)))
    assert operators(four_bit_weights(model, WeightOnlyWi4Afp32())) == ["Gemm"]


@pytest.mark.parametrize(("node", "shape"), PRODUCTS)
@pytest.mark.parametrize("block_size", [16, 32, 64, 256])
@pytest.mark.parametrize("symmetric", [True, False])
def test_four_bits_are_what_the_runtime_computes(
    node: Any, shape: tuple[int, int], block_size: int, symmetric: bool
) -> None:
    """The runtime reads the packed format as it was written: its products are those of the rounded matrix."""
    weights = matrix(*shape) + (0 if symmetric else 0.7)
    model = product(node, ("w", weights), ("b", matrix(COLUMNS)))
    recipe = WeightOnlyWi4Afp32.model_validate({"block_size": block_size, "symmetric": symmetric})
    smaller = four_bit_weights(model, recipe)
    straight = weights if shape[0] == COLUMNS else np.ascontiguousarray(weights.T)
    rounded = unpacked(straight, block_size, symmetric)
    x = matrix(5, ROWS, seed=1)
    bias = matrix(COLUMNS) if len(node.input) > 2 else 0
    np.testing.assert_allclose(answers(smaller, x), x @ rounded.T + bias, rtol=1e-4, atol=1e-4)


def unpacked(weights: Floats, block_size: int, symmetric: bool) -> Floats:
    """What `pack_four_bit` stands for."""
    packed, scales, zeros = pack_four_bit(weights, block_size, symmetric=symmetric)
    steps = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*scales.shape, -1).astype(np.float32)
    middle: Any = 8.0
    if zeros is not None:
        pairs = np.stack([zeros & 15, zeros >> 4], axis=-1).reshape(len(weights), -1)
        middle = pairs[:, : scales.shape[1], None].astype(np.float32)
    values: Floats = ((steps - middle) * scales[..., None]).reshape(len(weights), -1)
    return values[:, : weights.shape[1]]


@settings(max_examples=50)
@given(
    st.integers(1, 70),
    st.integers(1, 5),
    st.sampled_from([16, 32, 64]),
    st.booleans(),
    st.sampled_from([1e-3, 1.0, 1e3]),
    st.sampled_from([0.0, 5.0]),
)
def test_four_bits_are_off_by_one_step_at_most(
    rows: int, columns: int, block_size: int, symmetric: bool, spread: float, shift: float
) -> None:
    weights = ((matrix(columns, rows, seed=rows) + np.float32(shift)) * np.float32(spread)).astype(np.float32)
    _, scales, _ = pack_four_bit(weights, block_size, symmetric=symmetric)
    steps = np.abs(np.repeat(scales, block_size, axis=1)[:, :rows])
    assert (np.abs(unpacked(weights, block_size, symmetric) - weights) <= steps * 1.01).all()


def test_the_float_model_is_left_alone() -> None:
    model = product(MATMUL, ("w", matrix(ROWS, COLUMNS)))
    before = model.SerializeToString()
    eight_bit_weights(model, WeightOnlyWi8Afp32())
    four_bit_weights(model, WeightOnlyWi4Afp32())
    assert model.SerializeToString() == before
    onnx.checker.check_model(model)


def test_without_blocks_is_refused() -> None:
    """Another runtime has that; this one's operator has not."""
    model = product(MATMUL, ("w", matrix(ROWS, COLUMNS)))
    with pytest.raises(UnsupportedRecipeError, match="block size"):
        four_bit_weights(model, WeightOnlyWi4Afp32(block_size=None))
