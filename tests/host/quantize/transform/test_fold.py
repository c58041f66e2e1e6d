"""Batch normalisations vanish into the layer before them where that is exact."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from packhorse_host.quantize.transform.fold import fold_batch_norms
from tests.host.quantize.transform.graphs import Chain, assert_same_function, chain, random_models


def _norms(model: Any) -> int:
    return sum(node.op_type == "BatchNormalization" for node in model.graph.node)


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(lambda build: build.conv(4), id="conv"),
        pytest.param(lambda build: build.conv(4, bias=False), id="conv without bias"),
        pytest.param(lambda build: build.depthwise(2), id="depthwise"),
        pytest.param(lambda build: build.conv_transpose(2, 3), id="grouped transposed conv"),
    ],
)
def test_it_folds_into_convolutions(layer: Any) -> None:
    build = chain()
    layer(build)
    build.batch_norm()
    build.add("Relu")
    model = build.model()
    folded = fold_batch_norms(model)
    assert _norms(folded) == 0
    assert_same_function(model, folded)


def test_it_folds_into_the_last_layer_of_a_graph() -> None:
    """The output's name stays."""
    build = chain()
    build.conv()
    build.batch_norm()
    folded = fold_batch_norms(build.model())
    assert [value.name for value in folded.graph.output] == [build.end]
    assert _norms(folded) == 0


@settings(max_examples=30, deadline=None)
@given(random_models())
def test_the_function_stays(model: Any) -> None:
    assert_same_function(model, fold_batch_norms(model))


def _branched(build: Chain) -> list[str]:
    build.conv()
    inner = build.end
    build.batch_norm()
    return [inner]


def _alone(build: Chain) -> list[str]:
    build.add("Relu")
    build.batch_norm()
    return []


@pytest.mark.parametrize("make", [_branched, _alone])
def test_what_others_see_is_not_folded(make: Any) -> None:
    build = chain()
    model = build.model(*make(build))
    assert _norms(fold_batch_norms(model)) == 1
