"""Reading the float model that is packed: what is wrong with it is found before anything is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
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
_FLOATS: Final = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})
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
    outside_bytes = _bytes_in_other_files(model)
    if len(data) + outside_bytes > _PROTOBUF_MAX_BYTES:
        raise ModelError(
            f"{path}: {len(data) + outside_bytes} bytes with its weights; it is packed as one file, and one "
            "ONNX file holds 2 GiB at most: export a smaller variant, or in half precision"
        )
    _check_structure(path, model, in_one_file=not outside_bytes)
    if outside_bytes:
        model = _with_weights_inside(path)
        data = model.SerializeToString(deterministic=True)
    _check_weights(path, model)
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
    newest = onnx.defs.onnx_opset_version()
    if not _FIRST_OPSET <= opset <= newest:
        age = "old" if opset < _FIRST_OPSET else "new"
        raise ModelError(
            f"{path}: operator set {opset} is too {age}; {_FIRST_OPSET} to {newest} can be read: "
            "export it again"
        )
    return model


def _check_operators(path: Path, model: Any) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    versions = {entry.domain: entry.version for entry in model.opset_import}
    unknown = {
        f"{node.domain or 'ai.onnx'}::{node.op_type}"
        for node in all_nodes(model.graph)
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


def _check_structure(path: Path, model: Any, *, in_one_file: bool) -> None:
    try:
        onnx.checker.check_model(model if in_one_file else str(path))
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{path}: not a valid ONNX model: {str(error).strip().splitlines()[0]}") from error


def _check_weights(path: Path, model: Any) -> None:
    for tensor in _constants(model.graph):
        if tensor.data_type in _FLOATS and np.isnan(onnx.numpy_helper.to_array(tensor)).any():
            raise ModelError(f"{path}: weights `{tensor.name}` hold NaN: was its training interrupted?")


def _constants(graph: Any) -> Iterator[Any]:
    """Tensors that the file or files beside it hold, in inner graphs too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from [attribute.t, *attribute.tensors]
            for inner in [attribute.g, *attribute.graphs]:
                yield from _constants(inner)


def _bytes_in_other_files(model: Any) -> int:
    """As the model declares them; 1 at least for each tensor that is elsewhere."""
    elsewhere = [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in _constants(model.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    lengths = [entries.get("length", "") for entries in elsewhere]
    return sum(int(length) if length.isdecimal() else 1 for length in lengths)


def _with_weights_inside(path: Path) -> Any:
    try:
        return onnx.load(path)
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path}: its weights beside it cannot be read: {error}") from error


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
