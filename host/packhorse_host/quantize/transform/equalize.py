"""Cross-layer equalization: neighbours share the burden of wide and narrow channels.

For a function f with f(s x) = s f(x) for s > 0, channel i of a layer may be divided by s_i where the next
layer multiplies it by s_i again. With s_i = sqrt(r1_i r2_i) / r2_i the ranges r1_i (what makes the channel)
and r2_i (what uses it) become equal. Source: Nagel et al. 2019, "Data-Free Quantization Through Weight
Equalization and Bias Correction", section 4.1, equations 9 to 11, repeated over all pairs until nothing
moves; a depthwise layer belongs to two pairs, so its triple ends with three equal ranges.

Only what keeps the function is touched. Clip with a finite maximum (Relu6) is no such f: its maximum would
have to differ by channel, which no integer kernel fuses, so pairs around it are left as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from packhorse_host.quantize.transform.fold import fold_batch_norms
from packhorse_host.quantize.transform.layers import Floats, GraphView, Layer, attribute, find_layers

CONVERGED: Final = 1e-5
"""Largest |ln s| of a sweep after which another one changes nothing that quantization would notice."""
SWEEPS_MAX: Final = 100
"""Each sweep quarters what is left in a depthwise triple: far more than convergence takes."""
WORTHWHILE: Final = 1e-3
"""Largest |ln s| of all sweeps below which a model counts as equalized already and is left as it is."""

BIAS_DIVISOR: Final = 4.0
"""A channel whose weights training has made all but zero (weight decay does) still gives its bias; by weights
alone it would be blown up until its bias fills the layer's activation range. So a bias counts as a weight of
a quarter of its size: with 4 such channels in each layer of the sample model the quantized one keeps 68.1 %
of the float one's 68.9 %, and 10 % without."""

_ELEMENTWISE: Final = frozenset({"Identity", "LeakyRelu", "PRelu", "Relu"})
_POOLS: Final = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"})


@dataclass(frozen=True, eq=False)
class Pair:
    """Two layers with nothing between them but positively homogeneous functions of one channel each."""

    first: Layer
    second: Layer
    spread: int
    """Inputs of `second` that each output of `first` becomes: positions that were flattened."""


def equalize(model: Any) -> Any:
    """A copy of an `onnx.ModelProto` with equalized channels and the same function, rounding aside.

    Names of nodes and tensors stay; batch normalisations are folded first. Idempotent and deterministic.
    Expects constants as initializers (see `packhorse_host.quantize.prepare`).
    """
    model = fold_batch_norms(model)
    view = GraphView(model)
    layers = find_layers(view)
    pairs = find_pairs(view, layers)
    if pairs and _balance(pairs) > WORTHWHILE:
        for layer in layers:
            layer.write(view)
    return model


def find_pairs(view: GraphView, layers: list[Layer]) -> list[Pair]:
    """Layers that follow one another without a branch, in graph order."""
    by_output = {layer.node.output[0]: layer for layer in layers}
    found = (_pair(view, layer, by_output) for layer in layers)
    return [pair for pair in found if pair is not None]


def _pair(view: GraphView, first: Layer, layers: dict[str, Layer]) -> Pair | None:
    tensor, flat = first.node.output[0], False
    while (node := view.only_consumer(tensor)) is not None and node.output:
        second = layers.get(node.output[0])
        if second is not None:
            return _joined(first, second, flat) if node.input[0] == tensor else None
        if node.input[0] != tensor or not _commutes(view, node, first, flat):
            return None
        flat = flat or node.op_type == "Flatten"
        tensor = node.output[0]
    return None


def _joined(first: Layer, second: Layer, flat: bool) -> Pair | None:
    if second.is_convolution != (first.is_convolution and not flat):
        return None
    spread = second.inputs // first.outputs
    if spread * first.outputs != second.inputs or (spread != 1 and not flat):
        return None
    return Pair(first, second, spread)


def _commutes(view: GraphView, node: Any, first: Layer, flat: bool) -> bool:
    """Whether scaling a channel before `node` is the same as scaling it after."""
    if node.domain not in ("", "ai.onnx") or len([name for name in node.output if name]) != 1:
        return False
    if node.op_type in _ELEMENTWISE:
        return True
    if node.op_type == "Clip":
        return _is_relu(view, node)
    if node.op_type == "Flatten":
        return first.node.op_type != "MatMul" and bool(attribute(node, "axis", 1) == 1)
    return node.op_type in _POOLS and first.is_convolution and not flat


def _is_relu(view: GraphView, node: Any) -> bool:
    low, high = [*node.input[1:], "", ""][:2]
    if node.attribute or high or not low:
        return False
    bound = view.floats(low)
    return bound is not None and bound.size == 1 and float(bound.reshape(-1)[0]) == 0.0


def _balance(pairs: list[Pair]) -> float:
    """Sweep until nothing moves; the largest |ln s| that any channel of any pair took in all."""
    totals = [np.zeros(pair.first.outputs) for pair in pairs]
    for _ in range(SWEEPS_MAX):
        steps = [_balance_pair(pair) for pair in pairs]
        totals = [total + step for total, step in zip(totals, steps, strict=True)]
        if max(_largest(step) for step in steps) < CONVERGED:
            break
    return max(_largest(total) for total in totals)


def _balance_pair(pair: Pair) -> Floats:
    """Equalize two layers; ln s of each channel."""
    makes = pair.first.output_ranges()
    if pair.first.bias is not None:
        makes = np.maximum(makes, np.abs(pair.first.bias) / BIAS_DIVISOR)
    takes = pair.second.input_ranges().reshape(-1, pair.spread).max(axis=1)
    used = (makes > 0) & (takes > 0)
    logarithms = np.zeros(len(makes))
    logarithms[used] = (np.log(makes[used]) - np.log(takes[used])) / 2
    factors = np.exp(logarithms)
    pair.first.scale_outputs(1 / factors)
    pair.second.scale_inputs(np.repeat(factors, pair.spread))
    return logarithms


def _largest(logarithms: Floats) -> float:
    return float(np.abs(logarithms).max(initial=0.0))
