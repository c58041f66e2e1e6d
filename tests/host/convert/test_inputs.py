"""Inputs as people write them, and digests of sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse_host.convert.model import FloatModel
from packhorse_host.convert.sources import Source, parse_input, source_sha256
from packhorse_host.errors import ConfigError

MODEL = FloatModel(b"converted", "litert", (), ())


def test_an_input_is_read() -> None:
    spec = parse_input("image:fp32:*,3,224,224")
    assert (spec.name, spec.datatype, spec.shape) == ("image", "FP32", (-1, 3, 224, 224))


@pytest.mark.parametrize(
    "text", ["", "image", "image:FP32", "image:FP32:", ":FP32:1", "image:FP99:1", "a:FP32:x"]
)
def test_an_input_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME:DATATYPE:LENGTHS"):
        parse_input(text)


def test_a_folder_is_named_by_all_that_is_in_it(tmp_path: Path) -> None:
    source = Source("saved-model", tmp_path)
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "variables" / "data").write_bytes(b"one")
    first = source_sha256(source, MODEL)
    assert first == source_sha256(source, MODEL)
    (tmp_path / "variables" / "data").write_bytes(b"two")
    second = source_sha256(source, MODEL)
    (tmp_path / "variables" / "data").rename(tmp_path / "variables" / "other")
    assert len({first, second, source_sha256(source, MODEL)}) == 3


def test_a_file_is_named_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"as it came")
    assert source_sha256(Source("tflite", path), MODEL) != MODEL.sha256
    assert (
        source_sha256(Source("onnx", path), FloatModel(b"x", "onnxruntime", (), ()))
        == FloatModel(b"x", "onnxruntime", (), ()).sha256
    )
