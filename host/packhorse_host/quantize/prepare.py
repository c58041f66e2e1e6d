"""Before and after quantization: a graph that quantizes well, and a file without ballast."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

import onnx
from onnxruntime.quantization.quant_utils import add_infer_metadata, add_pre_process_metadata

from packhorse_host.quantize.errors import ModelError
from packhorse_host.quantize.graph import Level, all_nodes, optimized
from packhorse_host.quantize.source import SourceModel, standard_opset

PER_CHANNEL_OPSET: Final = 13
"""The first operator set whose DequantizeLinear has an axis."""


INNER: Final = "/"
"""Ends the names of inner tensors in a prepared graph.

ONNX Runtime's quantizer adds `_scale`, `2` and other endings to names without looking whether a tensor is
called that already; with this, none is.
"""

_TABLES: Final = frozenset({"Gather"})
_FLOATS: Final = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


def prepare(source: SourceModel) -> Any:
    """An `onnx.ModelProto` with constants folded, every tensor's shape inferred and every node named.

    Inner tensors of a graph without branches and loops have `INNER` after their name.

    Raises:
        ModelError: the operator set cannot be raised to `PER_CHANNEL_OPSET`.
    """
    model = _raised(onnx.load_model_from_string(source.data))
    model = optimized(model.SerializeToString(), Level.BASIC)
    model = onnx.shape_inference.infer_shapes(model)
    if not _has_subgraphs(model.graph):
        _rename_inner(model.graph, lambda name: name + INNER)
    for position, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{position}"
    add_pre_process_metadata(model)
    add_infer_metadata(model)
    return model


def unshare_weights(model: Any, operators: Collection[str], excluded: Collection[str]) -> None:
    """Give each node that will be quantized constants of its own, in place, but for tables to look up in.

    ONNX Runtime 1.32 with exact kernels on x86 (`session.x64quantprecision`) does not load a model in which
    two integer kernels share a constant: "Attempt to replace the existing tensor".

    Args:
        operators: the types of operators that are quantized.
        excluded: names of nodes that are not.
    """
    quantized = {*operators} - _TABLES
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type in _FLOATS}
    taken: set[str] = set()
    for node in graph.node:
        if node.op_type not in quantized or node.name in excluded:
            continue
        for position, name in enumerate(node.input):
            if name in taken:
                own = graph.initializer.add()
                own.CopyFrom(constants[name])
                own.name = node.input[position] = f"{name}{node.name}{position}{INNER}"
            elif name in constants:
                taken.add(name)


def compact(model: Any) -> bytes:
    """Serialize a quantized model without what the runtime infers again, and with short inner names.

    Names and shapes of inner tensors can outweigh the weights of a small model.
    """
    graph = model.graph
    del graph.value_info[:], model.metadata_props[:], graph.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    drop_unused_operator_sets(model)
    if not _has_subgraphs(graph):
        _shorten_names(graph)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _raised(model: Any) -> Any:
    if standard_opset(model) >= PER_CHANNEL_OPSET:
        return model
    try:
        raised = onnx.version_converter.convert_version(model, PER_CHANNEL_OPSET)
    except Exception as error:  # the converter raises RuntimeError and its own ConvertError
        raise ModelError(
            f"operator set {standard_opset(model)} cannot be raised to {PER_CHANNEL_OPSET}, "
            f"which per-channel weights need; export the model with a newer one: {error}"
        ) from error
    # The converter writes the newest file version, which older runtimes on devices refuse.
    raised.ir_version = onnx.helper.find_min_ir_version_for(list(raised.opset_import))
    return raised


def drop_unused_operator_sets(model: Any) -> None:
    """Take back, in place, the operator sets that nobody uses.

    The optimizer stamps all that its own version knows; an older runtime refuses newer versions.
    """
    used = {node.domain for node in all_nodes(model.graph)} | {"", "ai.onnx"}
    kept = [entry for entry in model.opset_import if entry.domain in used or model.functions]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _has_subgraphs(graph: Any) -> bool:
    kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return any(attribute.type in kinds for node in graph.node for attribute in node.attribute)


def _shorten_names(graph: Any) -> None:
    shown = {value.name for value in (*graph.input, *graph.output)}
    short: dict[str, str] = {}

    def shortened(name: str) -> str:
        if name not in short:
            candidate = f"t{len(short)}"
            short[name] = candidate if candidate not in shown else f"{candidate}_"
        return short[name]

    for position, node in enumerate(graph.node):
        node.name = f"n{position}"
        node.doc_string = ""
    _rename_inner(graph, shortened)


def _rename_inner(graph: Any, rename: Callable[[str], str]) -> None:
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}

    def renamed(name: str) -> str:
        return name if name in kept else rename(name)

    for node in graph.node:
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    for entry in (*graph.initializer, *graph.value_info):
        entry.name = renamed(entry.name)
