"""Models quantized in part compute what models quantized with the rest in float compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from packhorse_agent.contract.recipe import CalibrationMethod, MixedWi8Ai8, StaticWi8Ai8
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.samples import ArraySamples
from packhorse_host.quantize.emit_onnxruntime import INTEGER_OPERATORS, Memory, emit, emit_part
from packhorse_host.quantize.errors import ModelError
from packhorse_host.quantize.graph import Architecture, count_kernels
from packhorse_host.quantize.prepare import prepare
from packhorse_host.quantize.search.layers import layers_of
from packhorse_host.quantize.source import SourceModel, read_source
from packhorse_host.quantize.transform.means import as_written
from tests.host.float_models import cnn, save


def moving() -> Any:
    """Movers behind and before quantized nodes, a Relu behind an Add, and two outputs."""
    random = np.random.default_rng(5)

    def constant(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Transpose", ["image"], ["turned"], "turn", perm=[0, 1, 3, 2]),
        helper.make_node("Conv", ["turned", "w0"], ["first"], "first", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("MaxPool", ["first"], ["pooled"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pooled", "w1"], ["second"], "second", kernel_shape=[1, 1]),
        helper.make_node("Add", ["second", "pooled"], ["sum"], "sum"),
        helper.make_node("Relu", ["sum"], ["kept"], "relu"),
        helper.make_node("GlobalAveragePool", ["kept"], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w2"], ["scores"], "head"),
    ]
    shapes: dict[str, list[str | int]] = {"image": ["N", 3, 8, 8], "scores": ["N", 5], "kept": ["N", 4, 4, 4]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    constants = [constant("w0", 4, 3, 3, 3), constant("w1", 4, 4, 1, 1), constant("w2", 4, 5)]
    graph = helper.make_graph(nodes, "moving", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module", params=[cnn, moving], ids=["cnn", "moving"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    return read_source(save(request.param(), tmp_path_factory.mktemp("model") / "model.onnx"))


def samples(source: SourceModel) -> ArraySamples:
    (spec,) = source.inputs
    shape = (16, *spec.shape[1:])
    return ArraySamples({spec.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)})


def answers(model: bytes, data: ArraySamples) -> list[Array]:
    found: list[Array] = onnxruntime.InferenceSession(model, as_written()).run(None, dict(data.arrays))
    return found


def leaving(recipe: StaticWi8Ai8, nodes: set[str]) -> StaticWi8Ai8 | MixedWi8Ai8:
    """The recipe with `nodes` in float."""
    settings = recipe.model_dump(exclude={"name"}) | {"float_nodes": tuple(sorted(nodes))}
    return MixedWi8Ai8.model_validate(settings) if nodes else recipe


RECIPES = [
    StaticWi8Ai8(),
    StaticWi8Ai8(symmetric_activations=True),
    StaticWi8Ai8(calibration=CalibrationMethod.MSE, equalize=True),
    StaticWi8Ai8(operators=("Conv", "Relu")),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: str(len(recipe.model_dump_json())))
def test_a_part_computes_what_the_model_with_the_rest_in_float_does(
    source: SourceModel, recipe: StaticWi8Ai8
) -> None:
    data, memory = samples(source), Memory()
    inside = recipe.operators or INTEGER_OPERATORS
    layers = [layer for layer in layers_of(prepare(source), INTEGER_OPERATORS) if layer.operator in inside]
    everything = {node for layer in layers for node in layer.nodes}
    groups = [frozenset(layer.nodes) for layer in layers]
    groups += [frozenset(everything), frozenset(), groups[0] | groups[-1]]
    for nodes in groups:
        whole = emit(source, leaving(recipe, everything - nodes), data)
        part = emit_part(source, recipe, data, nodes, memory)
        for expected, found in zip(answers(whole, data), answers(part, data), strict=True):
            # Behind a MaxPool alone the scale is its input's.
            tolerance = 1e-5 if "pool" not in everything else 0.02
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_a_part_has_only_its_own_integer_kernels(source: SourceModel) -> None:
    first = next(layer for layer in layers_of(prepare(source), INTEGER_OPERATORS) if layer.operator == "Conv")
    part = emit_part(source, StaticWi8Ai8(), samples(source), first.nodes, Memory())
    assert count_kernels(part, Architecture.AARCH64).integer == 1


def test_no_part_is_the_float_model(source: SourceModel) -> None:
    part = emit_part(source, StaticWi8Ai8(), samples(source), (), Memory())
    assert not [node for node in onnx.load_model_from_string(part).graph.node if "Linear" in node.op_type]


def test_remembering_changes_nothing(source: SourceModel) -> None:
    data, memory = samples(source), Memory()
    for recipe in [*RECIPES, *RECIPES[::-1], StaticWi8Ai8(correct_bias=True)]:
        assert emit(source, recipe, data, memory) == emit(source, recipe, data)


def test_other_samples_are_not_confused(source: SourceModel) -> None:
    data, memory = samples(source), Memory()
    wider = ArraySamples({name: 4 * array for name, array in data.arrays.items()})
    emit(source, StaticWi8Ai8(), data, memory)
    assert emit(source, StaticWi8Ai8(), wider, memory) == emit(source, StaticWi8Ai8(), wider)


def test_a_quantized_model_has_no_part(source: SourceModel, tmp_path: Path) -> None:
    path = tmp_path / "quantized.onnx"
    path.write_bytes(emit(source, StaticWi8Ai8(), samples(source)))
    with pytest.raises(ModelError, match="quantized already"):
        emit_part(read_source(path), StaticWi8Ai8(), samples(source), (), Memory())


class CountingSamples(ArraySamples):
    """Counts how often it is gone through."""

    rounds = 0

    def batches(self, size: int, first: int = 0, last: int | None = None) -> Iterator[dict[str, Array]]:
        type(self).rounds += 1
        return super().batches(size, first, last)


def test_no_tensor_is_watched_twice(source: SourceModel) -> None:
    data, memory = CountingSamples(samples(source).arrays), Memory()
    emit(source, StaticWi8Ai8(), data, memory)
    rounds = CountingSamples.rounds
    for layer in layers_of(prepare(source), INTEGER_OPERATORS):
        emit_part(source, StaticWi8Ai8(), data, layer.nodes, memory)
    emit(source, StaticWi8Ai8(operators=("Conv", "Relu")), data, memory)
    assert CountingSamples.rounds == rounds
