"""Reading the float model that is packed: what is wrong with it is found before anything is made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx
from pydantic import ValidationError

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.onnxruntime_cpu import DATATYPES
from packhorse_host.errors import BadInputError
from packhorse_host.quantize.errors import ModelError, UnsupportedOperatorError
from packhorse_host.quantize.graph import all_nodes, open_session, quiet_options

_PROTOBUF_MAX_BYTES: Final = 2**31 - 1
_FIRST_OPSET: Final = 7
"""ONNX Runtime guarantees operators from this version of the operator set on."""
_RUNTIME_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"})
_QUANTIZED: Final = frozenset(
    {
        "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "MatMulNBits",
        "QLinearConv", "QLinearMatMul", "QuantizeLinear",
    }
)  # fmt: skip
"""Operators that a float model has no use for."""
_OTHER_FORMATS: Final = (
    (0, b"PK\x03\x04", "a zip archive (PyTorch?)"),
    (4, b"TFL3", "a TensorFlow Lite model"),
)


@dataclass(frozen=True)
class SourceModel:
    """An ONNX model that ONNX Runtime loads."""

    data: bytes
    """The file; weights from files beside it are taken in."""
    sha256: str
    """Of `data`."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    quantized: bool = False
    """Whether it came with quantized weights or activations: by training, or from another tool."""

    @property
    def one_at_a_time(self) -> bool:
        """Whether the first axis is fixed to a single sample."""
        return any(spec.shape[0] == 1 for spec in self.inputs)


def read_source(path: Path) -> SourceModel:
    """Read and check a model file.

    Raises:
        ModelError: not ONNX, truncated, or with inputs that are no tensors.
        UnsupportedOperatorError: operators that ONNX Runtime does not know.
        BadInputError: no such file.
    """
    data = _read(path)
    model = _parse(path, data)
    _check_operators(path, model)
    _check_structure(path, model)
    if _uses_other_files(model):
        data = _with_weights_inside(path)
    session = open_session(data, quiet_options())
    return SourceModel(
        data,
        sha256_hex(data),
        _specs(path, session.get_inputs()),
        _specs(path, session.get_outputs()),
        quantized=any(node.op_type in _QUANTIZED for node in all_nodes(model.graph)),
    )


def standard_opset(model: Any) -> int:
    """Version of the standard operator set that the model is written in; 0 if it names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadInputError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise BadInputError(f"{path}: is a folder, an ONNX file is expected") from error


def _parse(path: Path, data: bytes) -> Any:
    for offset, magic, kind in _OTHER_FORMATS:
        if data[offset : offset + len(magic)] == magic:
            raise ModelError(f"{path}: not an ONNX file, it looks like {kind}")
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # google.protobuf's DecodeError moves between its implementations
        raise ModelError(f"{path}: not an ONNX file, or truncated ({len(data)} bytes)") from error
    if not model.ir_version or not model.graph.node:
        raise ModelError(f"{path}: not an ONNX file, or truncated: it holds no graph")
    opset = standard_opset(model)
    if opset < _FIRST_OPSET:
        raise ModelError(f"{path}: operator set {opset} is too old, {_FIRST_OPSET} or newer is expected")
    return model


def _check_operators(path: Path, model: Any) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    versions = {entry.domain: entry.version for entry in model.opset_import}
    unknown = {
        f"{node.domain or 'ai.onnx'}::{node.op_type}"
        for node in model.graph.node
        if (node.domain, node.op_type) not in own and not _is_known(node, versions)
    }
    if unknown:
        names = ", ".join(sorted(unknown))
        raise UnsupportedOperatorError(f"{path}: operators that ONNX Runtime does not know: {names}")


def _is_known(node: Any, versions: dict[str, int]) -> bool:
    if node.domain not in _RUNTIME_DOMAINS:
        return False
    if node.domain not in ("", "ai.onnx"):
        return True
    version = versions.get("", versions.get("ai.onnx", 0))
    return bool(onnx.defs.has(node.op_type, version, ""))


def _check_structure(path: Path, model: Any) -> None:
    try:
        onnx.checker.check_model(str(path) if _uses_other_files(model) else model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{path}: not a valid ONNX model: {str(error).strip().splitlines()[0]}") from error


def _uses_other_files(model: Any) -> bool:
    external = onnx.TensorProto.EXTERNAL
    return any(tensor.data_location == external for tensor in model.graph.initializer)


def _with_weights_inside(path: Path) -> bytes:
    try:
        model = onnx.load(path)
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path}: its weights beside it cannot be read: {error}") from error
    if model.ByteSize() > _PROTOBUF_MAX_BYTES:
        raise ModelError(
            f"{path}: {model.ByteSize()} bytes with its weights; one ONNX file holds 2 GiB at most"
        )
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _specs(path: Path, nodes: Iterable[Any]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(path, node) for node in nodes)


def _spec(path: Path, node: Any) -> TensorSpec:
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        raise ModelError(f"{path}: `{node.name}` is {node.type}, which the inference protocol does not carry")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    if shape[:1] not in ((-1,), (1,)):
        raise ModelError(
            f"{path}: `{node.name}` has shape {list(shape)}; "
            "its first axis must be the batch, free or of length 1"
        )
    try:
        return TensorSpec(name=node.name, datatype=datatype, shape=shape)
    except ValidationError as error:
        raise ModelError(
            f"{path}: `{node.name[:80]}` is not a usable tensor name: {error.errors()[0]['msg']}"
        ) from error
