"""Of many inputs those are kept that together look as the training data did."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from packhorse_host.evaluate.samples import ArraySamples
from packhorse_host.quantize.data_free.statistics import choose_matching, deviations, find_batch_norms, herd
from packhorse_host.quantize.transform.layers import GraphView


def remembering(mean: list[float], variance: list[float]) -> Any:
    """A model that is nothing but a batch normalisation of its input."""
    channels = len(mean)
    parts = {"s": np.ones(channels), "b": np.zeros(channels), "m": mean, "v": variance}
    constants = [numpy_helper.from_array(np.asarray(part, np.float32), name) for name, part in parts.items()]
    node = helper.make_node("BatchNormalization", ["image", *parts], ["normal"])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", channels, 4, 4])
    normal = helper.make_tensor_value_info("normal", TensorProto.FLOAT, ["batch", channels, 4, 4])
    graph = helper.make_graph([node], "graph", [image], [normal], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def pool(levels: list[float]) -> ArraySamples:
    """One sample a level, around which it varies by 1."""
    noise = np.random.default_rng(0).standard_normal((len(levels), 1, 4, 4))
    noise = (noise - noise.mean((2, 3), keepdims=True)) / noise.std((2, 3), keepdims=True)
    return ArraySamples({"image": (noise + np.reshape(levels, (-1, 1, 1, 1))).astype(np.float32)})


def test_a_sample_like_the_training_data_does_not_deviate() -> None:
    model = remembering([3.0], [1.0])
    features = deviations(model, find_batch_norms(GraphView(model)), pool([3.0, 0.0]), batch=2)
    assert np.abs(features[0]).max() < 1e-3
    assert np.abs(features[1]).max() > 1


def test_the_last_batch_counts_once() -> None:
    model = remembering([3.0], [1.0])
    assert len(deviations(model, find_batch_norms(GraphView(model)), pool([0, 1, 2]), batch=2)) == 3


def test_the_nearest_is_chosen_first() -> None:
    model = remembering([3.0], [1.0])
    norms = find_batch_norms(GraphView(model))
    assert choose_matching(model, norms, pool([-9.0, 3.1, 50.0]), 1, batch=3) == [1]


def test_samples_make_up_for_one_another() -> None:
    """Two that are wrong to either side are better than two that are wrong to one."""
    features = np.array([[1.0], [1.1], [-1.0]], np.float32)
    assert herd(features, 2) == [0, 2]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 99))
def test_each_sample_is_chosen_once_at_most(rows: int, count: int, seed: int) -> None:
    features = np.random.default_rng(seed).standard_normal((rows, 3)).astype(np.float32)
    chosen = herd(features, count)
    assert len(chosen) == len(set(chosen)) == min(rows, count)


def test_only_batch_normalisations_with_constants_are_found() -> None:
    model = remembering([3.0], [1.0])
    assert len(find_batch_norms(GraphView(model))) == 1
    model.graph.initializer.pop()
    assert find_batch_norms(GraphView(model)) == []
    other = onnx.ModelProto()
    assert find_batch_norms(GraphView(other)) == []
