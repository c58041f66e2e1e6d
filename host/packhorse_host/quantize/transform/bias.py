"""Empirical bias correction: what quantization adds to a channel on average is taken off its bias.

Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section
4.2 and appendix D: layer after layer from the input on, each with the layers before it corrected already. All
at once is worse than nothing: every layer would take off its predecessors' errors again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx

from packhorse_host.evaluate.samples import Samples
from packhorse_host.quantize.transform.biases import Bias, find_bias
from packhorse_host.quantize.transform.layers import GraphView
from packhorse_host.quantize.transform.means import channel_means

SAMPLES_MAX: Final = 32
"""Samples, evenly spread, that means are taken over: both models see the same, so that few are enough (256
bring the sample model within 0.2 dB of what 32 do), and each layer takes another run over them."""
BATCH_MAX: Final = 4
"""Samples that run at once: with Q/DQ pairs as written every tensor is in memory twice, as floats."""


@dataclass(frozen=True)
class _Target:
    """A layer of the quantized model whose bias can be moved."""

    node: Any
    bias: Bias
    twin: Any
    """The same layer of the float model."""
    depth: int
    """Such layers before it, on the longest way from the inputs."""


def correct_bias(float_model: Any, quantized_model: Any, samples: Samples, *, batch: int) -> Any:
    """A copy of `quantized_model` whose layers give what the float model's give, on average per channel.

    Layers are matched by the names of their nodes. Moved are the int32 biases of Conv, ConvTranspose and Gemm
    with quantized weights, which get one where they have none, and biases in floating point, also those that
    an Add behind a MatMul holds.

    Args:
        float_model: an `onnx.ModelProto`.
        quantized_model: the same with Q/DQ pairs, in topological order.
        samples: of which `SAMPLES_MAX` are taken.
        batch: how many samples the models take at once; more than `BATCH_MAX` are not used.

    Raises:
        ModelError: ONNX Runtime does not load one of the models.
    """
    corrected = onnx.ModelProto()
    corrected.CopyFrom(quantized_model)
    targets = _targets(GraphView(corrected), {node.name: node for node in float_model.graph.node})
    if not targets:
        return corrected
    count = min(samples.count, SAMPLES_MAX)
    few = samples.take([int(index) for index in np.linspace(0, samples.count - 1, count)])
    batch = min(batch, BATCH_MAX)
    wanted = channel_means(float_model, [target.twin for target in targets], few, batch=batch)
    for depth in sorted({target.depth for target in targets}):
        wave = [(target, mean) for target, mean in zip(targets, wanted, strict=True) if target.depth == depth]
        found = channel_means(corrected, [target.node for target, _ in wave], few, batch=batch)
        for (target, mean), present in zip(wave, found, strict=True):
            if np.isfinite(mean - present).all():
                target.bias.move(mean - present)
    return corrected


def _targets(view: GraphView, twins: Mapping[str, Any]) -> list[_Target]:
    depths: dict[str, int] = {}
    found = []
    for node in view.graph.node:
        depth = max((depths.get(name, 0) for name in node.input), default=0)
        twin = twins.get(node.name)
        bias = find_bias(view, node) if twin is not None and twin.op_type == node.op_type else None
        if bias is not None:
            found.append(_Target(node, bias, twin, depth))
            depth += 1
        depths |= dict.fromkeys(node.output, depth)
    return found
