"""Biases take off what quantization adds on average, wherever a layer keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.samples import ArraySamples
from packhorse_host.quantize.transform.bias import SAMPLES_MAX, correct_bias
from packhorse_host.quantize.transform.means import channel_means
from tests.host.quantize.transform.graphs import Chain, chain, constant, images

BATCH = 4


class Quantizer:
    """Q/DQ pairs written by hand, with weights in so few steps that their rounding shows."""

    def __init__(self, model: Any, weight_levels: int = 7) -> None:
        self.levels = weight_levels
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

    def constant(self, name: str, values: Any) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def layer(self, node: Any, *, bias: bool = True, domain: str = "") -> None:
        weight = self.constants[node.input[1]]
        scale = np.float32(np.abs(weight).max() / self.levels)
        rounded = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
        self._dequantize(node, 1, rounded, scale, domain)
        if bias and len(node.input) > 2:
            step = np.float32(scale * 0.01)
            self._dequantize(
                node, 2, np.rint(self.constants[node.input[2]] / step).astype(np.int32), step, ""
            )

    def activation(self, node: Any) -> None:
        """A pair in front of the layer."""
        name = f"{node.name}/input"
        scale, zero = (
            self.constant(f"{name}_scale", np.float32(0.05)),
            self.constant(f"{name}_zero", np.int8(0)),
        )
        inputs = [f"{name}_q", scale, zero]
        position = list(self.model.graph.node).index(node)
        nodes = [
            helper.make_node("QuantizeLinear", [node.input[0], scale, zero], [inputs[0]]),
            helper.make_node("DequantizeLinear", inputs, [name]),
        ]
        for offset, inserted in enumerate(nodes):
            self.model.graph.node.insert(position + offset, inserted)
        node.input[0] = name

    def _dequantize(self, node: Any, position: int, values: Array, scale: Any, domain: str) -> None:
        name = f"{node.name}/{position}"
        inputs = [self.constant(f"{name}_q", values), self.constant(f"{name}_scale", scale)]
        dequantizer = helper.make_node("DequantizeLinear", inputs, [name], domain=domain)
        self.model.graph.node.insert(0, dequantizer)
        node.input[position] = name

    def named(self, operator: str) -> list[Any]:
        return [node for node in self.model.graph.node if node.op_type == operator]


def samples(count: int = 16) -> ArraySamples:
    return ArraySamples({"image": images(count) + 1})


def errors(float_model: Any, model: Any, data: ArraySamples, operators: Sequence[str]) -> list[float]:
    """For each layer the largest mean error of a channel, against the largest mean."""
    wanted = [node for node in float_model.graph.node if node.op_type in operators]
    by_name = {node.name: node for node in model.graph.node}
    expected = channel_means(float_model, wanted, data, batch=BATCH)
    found = channel_means(model, [by_name[node.name] for node in wanted], data, batch=BATCH)
    pairs = zip(expected, found, strict=True)
    return [float(np.abs(one - other).max() / np.abs(one).max()) for one, other in pairs]


def _cnn(*, bias: bool = True) -> Chain:
    build = chain(3)
    build.conv(6, bias=bias)
    build.add("Relu")
    build.depthwise()
    build.add("Relu")
    build.conv(4, bias=bias)
    return build


def quantized(build: Chain, **layer: Any) -> tuple[Any, Quantizer]:
    model = build.model()
    quantizer = Quantizer(model)
    for operator in ("Conv", "ConvTranspose", "Gemm"):
        for node in quantizer.named(operator):
            quantizer.layer(node, **layer)
    return model, quantizer


def test_each_layer_gives_the_float_mean_afterwards() -> None:
    """On the samples that it was corrected with, to the rounding of the biases."""
    model, quantizer = quantized(_cnn())
    data = samples()
    before = errors(model, quantizer.model, data, ["Conv"])
    after = errors(model, correct_bias(model, quantizer.model, data, batch=BATCH), data, ["Conv"])
    assert min(before) > 0.01
    assert max(after) < 0.002


def test_neither_model_is_touched() -> None:
    model, quantizer = quantized(_cnn())
    before = model.SerializeToString(), quantizer.model.SerializeToString()
    correct_bias(model, quantizer.model, samples(), batch=BATCH)
    assert (model.SerializeToString(), quantizer.model.SerializeToString()) == before


def test_the_same_input_gives_the_same_bytes() -> None:
    model, quantizer = quantized(_cnn())
    first = correct_bias(model, quantizer.model, samples(), batch=BATCH)
    assert correct_bias(model, quantizer.model, samples(), batch=BATCH) == first


def test_a_partial_batch_counts_each_sample_once() -> None:
    """The last batch is filled up; what fills it up is not part of a mean."""
    _, quantizer = quantized(_cnn())
    node = quantizer.named("Conv")[0]
    whole = channel_means(quantizer.model, [node], samples(5), batch=5)
    parts = channel_means(quantizer.model, [node], samples(5), batch=3)
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-5)


def _gemm() -> Chain:
    build = chain(4)
    build.conv(8)
    build.flatten()
    node = build.gemm(5)
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("transB", 1))
    return build


def _transposed() -> Chain:
    build = chain(5)
    build.conv_transpose(4)
    return build


@pytest.mark.parametrize("make", [_gemm, _transposed])
@pytest.mark.parametrize("bias", [True, False], ids=["int32 bias", "float bias"])
def test_every_kind_of_layer(make: Any, bias: bool) -> None:
    model, quantizer = quantized(make(), bias=bias)
    data = samples()
    corrected = correct_bias(model, quantizer.model, data, batch=BATCH)
    assert max(errors(model, corrected, data, ["ConvTranspose", "Gemm"])) < 0.002


def test_a_convolution_without_a_bias_gets_one_in_32_bits() -> None:
    """Behind Q/DQ pairs, where a float bias would keep it from its integer kernel."""
    build = chain(6)
    build.conv(4, bias=False)
    model = build.model()
    quantizer = Quantizer(model)
    (node,) = quantizer.named("Conv")
    quantizer.layer(node)
    quantizer.activation(node)
    corrected = correct_bias(model, quantizer.model, samples(), batch=BATCH)
    (after,) = [node for node in corrected.graph.node if node.op_type == "Conv"]
    bias = next(node for node in corrected.graph.node if node.output[0] == after.input[2])
    assert bias.op_type == "DequantizeLinear"
    assert constant(corrected, bias.input[0]).dtype == np.int32
    assert max(errors(model, corrected, samples(), ["Conv"])) < 0.002


def test_a_convolution_without_a_bias_or_pairs_gets_a_float_one() -> None:
    model, quantizer = quantized(_cnn(bias=False))
    corrected = correct_bias(model, quantizer.model, samples(), batch=BATCH)
    assert max(errors(model, corrected, samples(), ["Conv"])) < 0.002


def _matmul(*, addition: bool) -> tuple[Any, Quantizer]:
    build = chain(7)
    build.flatten()
    build.matmul(5)
    if addition:
        build.add("Add", build.bias(5))
    model = build.model()
    quantizer = Quantizer(model)
    quantizer.layer(quantizer.named("MatMul")[0])
    return model, quantizer


def test_a_matmul_is_corrected_in_the_addition_behind_it() -> None:
    model, quantizer = _matmul(addition=True)
    corrected = correct_bias(model, quantizer.model, samples(), batch=BATCH)
    assert max(errors(model, quantizer.model, samples(), ["Add"])) > 0.005
    assert max(errors(model, corrected, samples(), ["Add"])) < 0.002


def test_a_matmul_without_an_addition_stays() -> None:
    model, quantizer = _matmul(addition=False)
    assert correct_bias(model, quantizer.model, samples(), batch=BATCH) == quantizer.model


def test_layers_in_floating_point_stay() -> None:
    model = _cnn().model()
    assert correct_bias(model, model, samples(), batch=BATCH) == model


def test_layers_that_the_float_model_does_not_have_stay() -> None:
    model, quantizer = quantized(_cnn())
    for node in quantizer.named("Conv"):
        node.name += "/other"
    assert correct_bias(model, quantizer.model, samples(), batch=BATCH) == quantizer.model


def test_a_bias_that_two_layers_share_stays() -> None:
    """Two layers err differently."""
    model, quantizer = quantized(_cnn(), bias=False)
    convolutions = quantizer.named("Conv")
    quantizer.model.graph.node.insert(
        0, helper.make_node("DequantizeLinear", [quantizer.constant("q", np.zeros(6, np.int32)),
                                                 quantizer.constant("s", np.float32(1))], ["shared"])
    )  # fmt: skip
    for node in convolutions[:2]:
        node.input[2] = "shared"
    corrected = correct_bias(model, quantizer.model, samples(), batch=BATCH)
    np.testing.assert_array_equal(constant(corrected, "q"), np.zeros(6))


def test_errors_that_are_not_finite_move_nothing() -> None:
    model, quantizer = quantized(_cnn())
    data = samples()
    data.arrays["image"][:] = np.inf
    assert correct_bias(model, quantizer.model, data, batch=BATCH) == quantizer.model


class Stream:
    """Samples that say what was asked of them."""

    def __init__(self, samples: ArraySamples) -> None:
        self._samples = samples
        self.count = samples.count
        self.sha256 = samples.sha256
        self.taken: list[int] = []

    def take(self, indexes: Sequence[int]) -> ArraySamples:
        self.taken += indexes
        return self._samples.take(indexes)

    def batches(self, size: int, first: int = 0, last: int | None = None) -> Iterator[dict[str, Array]]:
        raise AssertionError("a whole data set is never run")


@pytest.mark.parametrize("count", [1, SAMPLES_MAX, SAMPLES_MAX + 40])
def test_never_more_than_a_fixed_number_of_samples_is_read(count: int) -> None:
    """Spread over a data set that may be sorted."""
    model, quantizer = quantized(_cnn())
    stream = Stream(samples(count))
    correct_bias(model, quantizer.model, stream, batch=BATCH)
    assert len(stream.taken) == min(count, SAMPLES_MAX)
    assert (stream.taken[0], stream.taken[-1]) == (0, count - 1)


def test_inputs_keep_their_type() -> None:
    model, quantizer = quantized(_cnn())
    corrected = correct_bias(model, quantizer.model, samples(), batch=BATCH)
    assert [value.name for value in corrected.graph.input] == ["image"]
    assert corrected.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
