"""Before and after quantization: a graph that quantizes well, and a file without ballast."""

from __future__ import annotations

from typing import Any, Final

import onnx
from onnxruntime.quantization.quant_utils import add_infer_metadata, add_pre_process_metadata

from packhorse_host.quantize.errors import ModelError
from packhorse_host.quantize.graph import Level, all_nodes, optimized
from packhorse_host.quantize.source import SourceModel, standard_opset

PER_CHANNEL_OPSET: Final = 13
"""The first operator set whose DequantizeLinear has an axis."""


def prepare(source: SourceModel) -> Any:
    """An `onnx.ModelProto` with constants folded, every tensor's shape inferred and every node named.

    Raises:
        ModelError: the operator set cannot be raised to `PER_CHANNEL_OPSET`.
    """
    model = _raised(onnx.load_model_from_string(source.data))
    model = optimized(model.SerializeToString(), Level.BASIC)
    model = onnx.shape_inference.infer_shapes(model)
    for position, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{position}"
    add_pre_process_metadata(model)
    add_infer_metadata(model)
    return model


def compact(model: Any) -> bytes:
    """Serialize a quantized model without what the runtime infers again, and with short inner names.

    Names and shapes of inner tensors can outweigh the weights of a small model.
    """
    graph = model.graph
    del graph.value_info[:], model.metadata_props[:], graph.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    _drop_unused_operator_sets(model)
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


def _drop_unused_operator_sets(model: Any) -> None:
    # The optimizer stamps all that its own version knows; an older runtime refuses newer versions.
    used = {node.domain for node in all_nodes(model.graph)} | {"", "ai.onnx"}
    kept = [entry for entry in model.opset_import if entry.domain in used or model.functions]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _has_subgraphs(graph: Any) -> bool:
    kinds = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    return any(attribute.type in kinds for node in graph.node for attribute in node.attribute)


def _shorten_names(graph: Any) -> None:
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    short: dict[str, str] = {name: name for name in kept}

    def shortened(name: str) -> str:
        if name not in short:
            candidate = f"t{len(short)}"
            short[name] = candidate if candidate not in kept else f"{candidate}_"
        return short[name]

    for position, node in enumerate(graph.node):
        node.name = f"n{position}"
        node.doc_string = ""
        node.input[:] = [shortened(name) for name in node.input]
        node.output[:] = [shortened(name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = shortened(tensor.name)
