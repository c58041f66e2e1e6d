"""ONNX models for TensorRT: as they are, or with the lengths that an engine needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_host.convert.convert import float_model
from packhorse_host.convert.errors import ConversionFailedError
from packhorse_host.convert.sources import recognise, source_sha256
from tests.agent.models import linear_model, single_node

LENGTHS = (TensorSpec(name="x", datatype="FP32", shape=(-1, 5)),)


def silently(text: str) -> None:
    """Nobody listens."""


def free_axis(folder: Path) -> Path:
    node = helper.make_node("Relu", ["x"], ["y"])
    tensors = [{name: (TensorProto.FLOAT, ["batch", "length"])} for name in ("x", "y")]
    path = folder / "model.onnx"
    path.write_bytes(single_node(node, tensors[0], tensors[1]))
    return path


def test_a_free_batch_stays_free(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(linear_model())
    source = recognise(path)
    model = float_model(source, "tensorrt", silently)
    assert model.data == path.read_bytes()
    assert model.inputs[0].shape == (-1, 4)
    assert source_sha256(source, model) == model.sha256


def test_another_free_axis_gets_its_length(tmp_path: Path) -> None:
    model = float_model(recognise(free_axis(tmp_path), inputs=LENGTHS), "tensorrt", silently)
    imported = onnx.load_model_from_string(model.data).opset_import
    assert [entry.domain for entry in imported] == [""], "as the source, which an older reader knows"
    assert (model.runtime, model.inputs[0].shape, model.outputs[0].shape) == ("tensorrt", (1, 5), (1, 5))
    x = np.arange(5, dtype=np.float32)[None] - 2
    np.testing.assert_array_equal(
        onnxruntime.InferenceSession(model.data).run(None, {"x": x})[0], np.maximum(x, 0)
    )


def test_without_a_length_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionFailedError, match=r"input `x` has a free axis 1.*NAME:DATATYPE:LENGTHS"):
        float_model(recognise(free_axis(tmp_path)), "tensorrt", silently)
