"""The maker of hard variants; see `make_hard`."""

from __future__ import annotations

from typing import Any

import numpy as np

from packhorse_host.quantize.transform.equalize import Pair, find_pairs
from packhorse_host.quantize.transform.fold import fold_batch_norms
from packhorse_host.quantize.transform.layers import GraphView, find_layers


def make_hard(model: Any, spread_log2: float, seed: int) -> Any:
    """A copy of an `onnx.ModelProto` with batch normalisations folded and uneven expansion channels.

    Each channel that goes into a depthwise convolution is multiplied by 2^U(-spread_log2, spread_log2), its
    kernel there divided by the same. Between them is nothing but functions with f(s x) = s f(x), such as
    Relu (not Relu6), so the float function stays.
    """
    model = fold_batch_norms(model)
    view = GraphView(model)
    layers = find_layers(view)
    stream = np.random.default_rng(seed)
    for pair in find_pairs(view, layers):
        if _is_depthwise(pair):
            factors = 2.0 ** stream.uniform(-spread_log2, spread_log2, pair.first.outputs)
            pair.first.scale_outputs(factors)
            pair.second.scale_inputs(1 / factors)
    for layer in layers:
        layer.write(view)
    return model


def _is_depthwise(pair: Pair) -> bool:
    groups, _, inputs, _ = pair.second.weight.shape
    return pair.second.is_convolution and inputs == 1 and groups > 1
