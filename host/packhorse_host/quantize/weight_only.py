"""Weights in few bits, arithmetic in single precision: smaller files, not faster inference."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from packhorse_agent.contract.recipe import WeightOnlyWi4Afp32, WeightOnlyWi8Afp32
from packhorse_host.quantize.errors import UnsupportedRecipeError
from packhorse_host.quantize.graph import all_nodes

_Floats = npt.NDArray[np.float32]
_Bytes = npt.NDArray[np.uint8]

FourBits: TypeAlias = tuple[_Bytes, _Floats, _Bytes | None]
"""Steps, two in a byte with the even one low, [N, blocks, block_size / 2]; scales [N, blocks]; zero points,
two in a byte, [N, ceil(blocks / 2)], or None where all are 8."""

_OVERHEAD_BYTES: Final = 256
"""Of the nodes and names that a weight in few bits needs; one that saves less stays as it is."""
_RUNTIME_DOMAIN: Final = "com.microsoft"


def eight_bit_weights(model: Any, recipe: WeightOnlyWi8Afp32) -> Any:
    """A copy whose weights are INT8 with a scale per output channel, cast and multiplied back.

    Not as DequantizeLinear: ONNX Runtime never folds that one, since a quantized kernel might want it, so
    each inference would turn all weights to floats again (MobileNetV2 took twice as long). Cast and Mul it
    computes once, when it loads the model: then speed and memory are those of FP32, and the file is smaller.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    weights = _weights(graph)
    nodes: list[Any] = []
    for node in graph.node:
        name = node.input[1] if node.op_type in recipe.operators and len(node.input) > 1 else ""
        if name in weights:
            axis = _channel_axis(node, weights[name].ndim) if recipe.per_channel else None
            nodes += _eight_bit(graph, name, weights.pop(name), axis)
        nodes.append(node)
    _replace_nodes(graph, nodes)
    return copy


def four_bit_weights(model: Any, recipe: WeightOnlyWi4Afp32) -> Any:
    """A copy whose products with constant matrices are MatMulNBits, ONNX Runtime's own operator.

    Source of the format: ONNX Runtime, docs/ContribOperators.md, com.microsoft.MatMulNBits.

    Raises:
        UnsupportedRecipeError: the recipe has no blocks, which the operator cannot do without.
    """
    if recipe.block_size is None:
        raise UnsupportedRecipeError(
            "ONNX Runtime's 4-bit products have blocks of 16 to 256 weights: give the recipe a block size"
        )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    weights = _weights(graph)
    nodes: list[Any] = []
    for node in graph.node:
        matrix = _product_matrix(node, weights)
        if matrix is None:
            nodes.append(node)
        else:
            packed = pack_four_bit(matrix, recipe.block_size, symmetric=recipe.symmetric)
            nodes += _four_bit(graph, node, matrix.shape, packed, recipe.block_size)
    _replace_nodes(graph, nodes)
    _drop_unused_constants(graph)
    if not any(entry.domain == _RUNTIME_DOMAIN for entry in copy.opset_import):
        copy.opset_import.append(helper.make_opsetid(_RUNTIME_DOMAIN, 1))
    return copy


def _weights(graph: Any) -> dict[str, _Floats]:
    """Constants in single precision with two axes or more, all finite, by name."""
    fed = {value.name for value in graph.input}
    arrays = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1 and tensor.name not in fed
    }
    return {name: array for name, array in arrays.items() if np.isfinite(array).all()}


def _channel_axis(node: Any, rank: int) -> int:
    if node.op_type == "MatMul" or (node.op_type == "Gemm" and not _attribute(node, "transB", 0)):
        return rank - 1
    return 1 if node.op_type == "ConvTranspose" else 0


def _attribute(node: Any, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            return float(helper.get_attribute_value(attribute))
    return default


def _eight_bit(graph: Any, name: str, weight: _Floats, axis: int | None) -> list[Any]:
    others = tuple(other for other in range(weight.ndim) if other != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    if weight.size * 3 <= scale.size * 4 + _OVERHEAD_BYTES:
        return []
    steps = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
    _replace_constants(graph, {name}, {f"{name}/int8": steps, f"{name}/scale": scale})
    cast = helper.make_node("Cast", [f"{name}/int8"], [f"{name}/cast"], f"{name}/cast", to=TensorProto.FLOAT)
    return [cast, helper.make_node("Mul", [f"{name}/cast", f"{name}/scale"], [name], f"{name}/mul")]


def _product_matrix(node: Any, weights: dict[str, _Floats]) -> _Floats | None:
    """[N, K], if the node multiplies [..., K] by a constant matrix and does nothing that cannot be kept."""
    weight = weights.get(node.input[1]) if node.op_type in ("Gemm", "MatMul") else None
    if weight is None or weight.ndim != 2 or weight.nbytes <= _OVERHEAD_BYTES:
        return None
    transposed: _Floats = weight.T
    if node.op_type == "MatMul":
        return transposed
    plain = _attribute(node, "alpha", 1) == 1 and not _attribute(node, "transA", 0)
    if not plain or (len(node.input) > 2 and _attribute(node, "beta", 1) != 1):
        return None
    return weight if _attribute(node, "transB", 0) else transposed


def _four_bit(
    graph: Any, node: Any, columns_rows: tuple[int, ...], packed: FourBits, block_size: int
) -> list[Any]:
    columns, rows = columns_rows
    steps, scales, zeros = packed
    constants: dict[str, npt.NDArray[Any]] = {
        f"{node.name}/int4": steps,
        f"{node.name}/scales": scales.reshape(-1),
    }
    if zeros is not None:
        constants[f"{node.name}/zeros"] = zeros.reshape(-1)
    _replace_constants(graph, set(), constants)
    bias = node.input[2] if len(node.input) > 2 else ""
    product = f"{node.name}/product" if bias else node.output[0]
    shape: dict[str, Any] = {"K": rows, "N": columns, "bits": 4, "block_size": block_size}
    inputs = [node.input[0], *constants]
    nodes = [helper.make_node("MatMulNBits", inputs, [product], node.name, domain=_RUNTIME_DOMAIN, **shape)]
    if bias:
        nodes.append(helper.make_node("Add", [product, bias], [node.output[0]], f"{node.name}/bias"))
    return nodes


def pack_four_bit(matrix: _Floats, block_size: int, *, symmetric: bool) -> FourBits:
    """Quantize [N, K] along K, as MatMulNBits wants it."""
    columns, rows = matrix.shape
    count = -(-rows // block_size)
    padded = np.zeros((columns, count * block_size), np.float32)
    padded[:, :rows] = matrix
    blocks = padded.reshape(columns, count, block_size)
    scales, zeros = _symmetric_steps(blocks) if symmetric else _asymmetric_steps(blocks)
    steps = np.clip(np.rint(blocks / scales[..., None]) + zeros[..., None], 0, 15).astype(np.uint8)
    if symmetric:
        return _paired(steps), scales, None
    return _paired(steps), scales, _paired(np.pad(zeros.astype(np.uint8), ((0, 0), (0, count % 2))))


def _symmetric_steps(blocks: _Floats) -> tuple[_Floats, _Floats]:
    # There are 8 steps on one side of zero and 7 on the other: the larger magnitude gets the 8.
    at = np.abs(blocks).argmax(axis=-1)[..., None]
    largest = np.take_along_axis(blocks, at, axis=-1)[..., 0]
    scales = np.where(largest == 0, 1, largest / -8).astype(np.float32)
    return scales, np.full_like(scales, 8)


def _asymmetric_steps(blocks: _Floats) -> tuple[_Floats, _Floats]:
    low, high = np.minimum(blocks.min(axis=-1), 0), np.maximum(blocks.max(axis=-1), 0)
    scales = np.where(high == low, 1, (high - low) / 15).astype(np.float32)
    return scales, np.clip(np.rint(-low / scales), 0, 15).astype(np.float32)


def _paired(nibbles: _Bytes) -> _Bytes:
    packed: _Bytes = np.bitwise_or(nibbles[..., 0::2], np.left_shift(nibbles[..., 1::2], np.uint8(4)))
    return packed


def _replace_constants(graph: Any, old: Collection[str], new: dict[str, npt.NDArray[Any]]) -> None:
    for tensor in [tensor for tensor in graph.initializer if tensor.name in old]:
        graph.initializer.remove(tensor)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in new.items())


def _replace_nodes(graph: Any, nodes: list[Any]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_unused_constants(graph: Any) -> None:
    used = {name for node in all_nodes(graph) for name in node.input}
    used |= {value.name for value in graph.output}
    _replace_constants(graph, {tensor.name for tensor in graph.initializer} - used, {})
