"""What a layer's channels are on average, over samples of which one batch is in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import onnx

from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.samples import Samples
from packhorse_host.quantize.graph import all_nodes, open_session, quiet_options
from packhorse_host.quantize.transform.layers import CONVOLUTIONS, Floats

_MEAN: Final = "packhorse/mean/"


def channel_means(model: Any, nodes: Sequence[Any], samples: Samples, *, batch: int) -> list[Floats]:
    """The mean of each channel of what `nodes` put out, `[channels]` for each node; see `as_written`.

    Raises:
        ModelError: ONNX Runtime does not load the model.
    """
    session = open_session(_showing(model, nodes).SerializeToString(), as_written())
    names = [value.name for value in session.get_inputs()]
    sums: list[Any] = [0.0] * len(nodes)
    for start, feed in zip(range(0, samples.count, batch), samples.batches(batch), strict=True):
        # The last batch is filled up with repetitions.
        share = min(batch, samples.count - start) / batch
        shown = session.run(None, {name: feed[name] for name in names})
        for position, (node, values) in enumerate(zip(nodes, shown, strict=True)):
            sums[position] += _means(node, values, share) * share
    batches = samples.count / batch
    return [total / batches for total in sums]


def _means(node: Any, values: Array, share: float) -> Floats:
    rows = values[: max(1, round(len(values) * share))].astype(np.float64)
    width = rows.shape[1] if node.op_type in CONVOLUTIONS else rows.shape[-1]
    means: Floats = rows.reshape(-1, width).mean(axis=0)
    return means


def as_written() -> Any:
    """Session options by which Q/DQ pairs are computed as they stand in the graph, in floating point.

    The integer kernels of x86 without VNNI saturate where those of other machines do not; what is to hold on
    every device must not depend on that.
    """
    options = quiet_options()
    # See onnxruntime_session_options_config_keys.h.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _showing(model: Any, nodes: Sequence[Any]) -> Any:
    """A copy that computes nothing but the layers' outputs, those of convolutions averaged over positions."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    graph = shown.graph
    del graph.output[:], graph.node[:]
    graph.node.extend(_needed(model.graph, [node.output[0] for node in nodes]))
    for position, node in enumerate(nodes):
        operator = "GlobalAveragePool" if node.op_type in CONVOLUTIONS else "Identity"
        graph.node.append(onnx.helper.make_node(operator, [node.output[0]], [f"{_MEAN}{position}"]))
        graph.output.append(onnx.ValueInfoProto(name=f"{_MEAN}{position}"))
    used = {name for node in all_nodes(graph) for name in node.input}
    inputs = [value for value in graph.input if value.name in used]
    del graph.input[:]
    graph.input.extend(inputs)
    return shown


def _needed(graph: Any, tensors: Iterable[str]) -> list[Any]:
    wanted, kept = set(tensors), []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            inside = (inner for entry in node.attribute for inner in [entry.g, *entry.graphs])
            wanted.update(node.input, *(other.input for part in inside for other in all_nodes(part)))
    return kept[::-1]
