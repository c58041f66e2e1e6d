"""A model that cannot be packed is refused before anything is made, with what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.recipe import StaticWi8Ai8
from packhorse_host.errors import BadInputError
from packhorse_host.quantize import source
from packhorse_host.quantize.emit_onnxruntime import emit
from packhorse_host.quantize.errors import ModelError, UnsupportedOperatorError
from packhorse_host.quantize.source import read_source
from tests.host.float_models import IMAGE, LOGITS, cnn, image_samples, save
from tests.host.quantize.odd_models import branching


def test_a_good_model_is_taken_as_it_is(tmp_path: Path) -> None:
    """Its bytes, their digest, and its tensors with free axes as -1."""
    path = save(cnn(), tmp_path / "model.onnx")
    found = read_source(path)
    assert found.data == path.read_bytes()
    assert (found.inputs, found.outputs) == ((IMAGE,), (LOGITS,))
    assert not found.one_at_a_time


def test_a_batch_fixed_to_one_is_seen(tmp_path: Path) -> None:
    assert read_source(save(cnn(batch=1), tmp_path / "model.onnx")).one_at_a_time


def test_weights_in_a_file_beside_it_are_taken_in(tmp_path: Path) -> None:
    """The source is one self-contained file, wherever it is opened."""
    onnx.save(
        cnn(), tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0
    )
    found = read_source(tmp_path / "model.onnx")
    (tmp_path / "weights").unlink()
    tensors = onnx.load_model_from_string(found.data).graph.initializer
    assert all(tensor.data_location == TensorProto.DEFAULT for tensor in tensors)


def test_weights_that_are_missing_beside_it(tmp_path: Path) -> None:
    onnx.save(
        cnn(), tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0
    )
    (tmp_path / "weights").unlink()
    with pytest.raises(ModelError, match="weights"):
        read_source(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an ONNX file"),
        (b"these are only words, not a model at all", "not an ONNX file"),
        (b"\x80\x04\x95pickle", "not an ONNX file"),
        (b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
        (b"PK\x03\x04 torch", "PyTorch"),
    ],
)
def test_not_an_onnx_file(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        read_source(path)
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated(tmp_path: Path, share: float) -> None:
    """However much of it is there."""
    data = cnn().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match="truncated"):
        read_source(path)


@pytest.mark.parametrize("name", ["missing.onnx", "model.onnx/inside", ""])
def test_no_such_file(tmp_path: Path, name: str) -> None:
    save(cnn(), tmp_path / "model.onnx")
    with pytest.raises(BadInputError, match=r"no such file|is a folder"):
        read_source(tmp_path / name)


def _foreign_domain(model: Any) -> None:
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def _unknown_operator(model: Any) -> None:
    model.graph.node[1].op_type = "Reluu"


def test_operators_of_a_foreign_domain_are_named(tmp_path: Path) -> None:
    model = cnn()
    _foreign_domain(model)
    with pytest.raises(UnsupportedOperatorError, match=r"com\.example::Relu"):
        read_source(save(model, tmp_path / "model.onnx"))


def test_unknown_standard_operators_are_named(tmp_path: Path) -> None:
    model = cnn()
    _unknown_operator(model)
    with pytest.raises(UnsupportedOperatorError, match=r"ai\.onnx::Reluu"):
        read_source(save(model, tmp_path / "model.onnx"))


def _without_producer(model: Any) -> None:
    del model.graph.node[0]


def _too_old(model: Any) -> None:
    model.opset_import[0].version = 6


def _from_the_future(model: Any) -> None:
    model.opset_import[0].version = 99


def _from_a_future_file_format(model: Any) -> None:
    model.ir_version = 99


def _with_nan(model: Any) -> None:
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "stem_w")
    array = numpy_helper.to_array(weights).copy()
    array.flat[5] = np.nan
    weights.CopyFrom(numpy_helper.from_array(array, "stem_w"))


def _sequence_output(model: Any) -> None:
    model.graph.node.append(helper.make_node("SequenceConstruct", ["logits", "logits"], ["list"]))
    model.graph.output.append(helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None))


def _text_output(model: Any) -> None:
    model.graph.node.append(helper.make_node("Cast", ["logits"], ["words"], to=TensorProto.STRING))
    model.graph.output.append(helper.make_tensor_value_info("words", TensorProto.STRING, ["batch", 4]))


def _unknown_rank(model: Any) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def _text_input(model: Any) -> None:
    model.graph.input.append(helper.make_tensor_value_info("text", TensorProto.STRING, ["batch"]))


def _scalar_input(model: Any) -> None:
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, []))


def _fixed_batch(model: Any) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (_without_producer, "not a valid ONNX model"),
        (_too_old, "operator set 6 is too old"),
        (_from_the_future, r"operator set 99 is too new; 7 to \d+ can be read"),
        (_from_a_future_file_format, "not a valid ONNX model.*99"),
        (_with_nan, "weights `stem_w` hold NaN"),
        (_sequence_output, r"`list` is seq\(tensor\(float\)\), which the inference protocol does not carry"),
        (_text_output, r"`words` is tensor\(string\)"),
        (_unknown_rank, "not a valid ONNX model.*shape"),
        (_text_input, "tensor\\(string\\)"),
        (_scalar_input, "first axis must be the batch"),
        (_fixed_batch, r"\[4, 1, 8, 8\].*first axis must be the batch"),
    ],
)
def test_models_of_a_kind_that_cannot_be_packed(
    tmp_path: Path, breaks: Callable[[Any], None], words: str
) -> None:
    model = cnn()
    breaks(model)
    with pytest.raises(ModelError, match=words) as caught:
        read_source(save(model, tmp_path / "model.onnx"))
    assert "onnxruntime_src" not in str(caught.value)


def test_foreign_operators_in_a_branch_are_named(tmp_path: Path) -> None:
    model = branching()
    branch = next(node for node in model.graph.node if node.op_type == "If").attribute[0].g
    branch.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedOperatorError, match=r"com\.example::MatMul"):
        read_source(save(model, tmp_path / "model.onnx"))


def _with_weights_beside(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(cnn(), path, save_as_external_data=True, location="weights", size_threshold=0)
    return path


def test_more_than_one_file_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by the sizes that the model declares, before gigabytes are read."""
    path = _with_weights_beside(tmp_path)
    monkeypatch.setattr(source, "_PROTOBUF_MAX_BYTES", path.stat().st_size + 100)
    monkeypatch.setattr(onnx, "load", pytest.fail)
    with pytest.raises(ModelError, match=r"bytes with its weights.*2 GiB at most"):
        read_source(path)


def test_weights_that_claim_gigabytes(tmp_path: Path) -> None:
    """A file full of holes is as large as it says, and takes no disk."""
    path = _with_weights_beside(tmp_path)
    with (tmp_path / "weights").open("r+b") as weights:
        weights.truncate(3 * 2**30)
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    tensor.dims[:] = [3 * 2**28]
    for entry in tensor.external_data:
        entry.value = {"offset": "0", "length": str(3 * 2**30)}.get(entry.key, entry.value)
    with pytest.raises(ModelError, match="2 GiB at most"):
        read_source(save(model, path))


def test_weights_of_another_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    path = _with_weights_beside(tmp_path / "inside")
    (tmp_path / "inside" / "weights").rename(tmp_path / "weights")
    model = onnx.load(path, load_external_data=False)
    for entry in (entry for tensor in model.graph.initializer for entry in tensor.external_data):
        entry.value = "../weights" if entry.key == "location" else entry.value
    with pytest.raises(ModelError):
        read_source(save(model, path))


def test_an_old_operator_set_is_raised(tmp_path: Path) -> None:
    """An operator set before 13 is raised, since per-channel weights need 13; the file version stays old."""
    old = read_source(save(cnn(opset=11), tmp_path / "model.onnx"))
    quantized = onnx.load_model_from_string(emit(old, StaticWi8Ai8(), image_samples(8)))
    assert [entry.version for entry in quantized.opset_import] == [13]
    assert quantized.ir_version <= 8
