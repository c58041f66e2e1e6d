"""`packhorse evaluate` from the shell: what it prints, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.manifest import Quality
from packhorse_host.cli.app import main
from packhorse_host.evaluate.samples import arrays_sha256
from tests.host.float_models import cnn, decisions, images, save, save_npz

COUNT = 120


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float model, one with coarse weights, and a set on which the float model is always right."""
    folder = tmp_path_factory.mktemp("data")
    model = cnn()
    save(model, folder / "model.onnx")
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.round(values * 3) / np.float32(3), tensor.name))
    save(model, folder / "coarse.onnx")
    evaluation = images(COUNT, seed=2)
    save_npz(folder / "evaluation.npz", image=evaluation, labels=decisions(cnn(), evaluation))
    return folder


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    return int(ended.value.code or 0)


def reported(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert run(*arguments, "--json") == 0
    said = capsys.readouterr()
    assert said.err == ""
    result: dict[str, Any] = json.loads(said.out)
    return result


def test_two_models_on_the_same_samples(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = reported(
        capsys, data / "model.onnx", data / "coarse.onnx", "--evaluation", data / "evaluation.npz"
    )
    quality = Quality.model_validate(found["quality"])
    assert (quality.metric, quality.fp32, quality.samples) == ("top1_percent", 100.0, COUNT)
    assert quality.drop_points == pytest.approx(100 - quality.quantized)
    assert quality.agreement_percent == quality.quantized
    assert quality.drop_ci95_points.low < quality.drop_points < quality.drop_ci95_points.high
    (output,) = found["outputs"]
    assert output["output"] == "logits"
    assert 0 < output["sqnr_db"] < 60
    assert 50 < output["cosine_percent"] < 100


def test_the_digest_is_that_of_samples_and_labels(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = reported(capsys, data / "model.onnx", "--evaluation", data / "evaluation.npz")
    with np.load(data / "evaluation.npz") as arrays:
        assert found["dataset_sha256"] == arrays_sha256(dict(arrays))


def test_one_model_alone(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = reported(capsys, data / "coarse.onnx", "--evaluation", data / "evaluation.npz")
    assert found["quality"] is None
    assert found["outputs"] == []
    assert found["score_ci95"]["low"] < found["score"] < found["score_ci95"]["high"]


def test_tables_for_people(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures on standard output, progress on standard error."""
    files = (data / "model.onnx", data / "coarse.onnx", "--evaluation", data / "evaluation.npz")
    assert run(*files, "--metric", "output_sqnr_db") == 0
    said = capsys.readouterr()
    assert "SQNR to FP32, worst output dB" in said.out
    assert "COSINE %" in said.out
    assert f"running model.onnx, coarse.onnx on {COUNT} samples" in said.err
    assert run(data / "model.onnx", "--evaluation", data / "evaluation.npz") == 0
    assert "95 % INTERVAL" in capsys.readouterr().out


def test_a_bundle_is_opened_as_a_device_opens_it(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "pack", str(data / "model.onnx"), "--name", "net", "--version", "1", "--recipe", "fp32",
                "--profile", "generic-x86_64", "--evaluation", str(data / "evaluation.npz"),
                "-o", str(tmp_path),
            ]
        )  # fmt: skip
    assert not ended.value.code
    (bundle,) = tmp_path.iterdir()
    assert run(data / "model.onnx", bundle, "--evaluation", data / "evaluation.npz") == 0
    model = bundle / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    assert run(data / "model.onnx", bundle, "--evaluation", data / "evaluation.npz") == ExitCode.UNTRUSTED


def test_tensors_of_other_names_go_by_their_order(data: Path, tmp_path: Path) -> None:
    model = onnx.load(data / "model.onnx")
    for node in model.graph.node:
        node.input[:] = ["picture" if name == "image" else name for name in node.input]
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
    model.graph.input[0].name, model.graph.output[0].name = "picture", "scores"
    twin = save(model, tmp_path / "twin.onnx")
    assert run(data / "model.onnx", twin, "--evaluation", data / "evaluation.npz") == 0


def test_a_set_that_says_little_is_warned_about(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_npz(data / "one_class.npz", image=images(5), labels=np.zeros(5, np.int64))
    assert run(data / "model.onnx", "--evaluation", path) == 0
    assert "warning: all 5 labels are 0" in capsys.readouterr().err
    path = save_npz(data / "one.npz", image=images(1), labels=np.zeros(1, np.int64))
    assert run(data / "model.onnx", "--evaluation", path) == 0
    assert "warning: one sample" in capsys.readouterr().err


def fails(capsys: pytest.CaptureFixture[str], code: ExitCode, words: str, *arguments: object) -> None:
    assert run(*arguments) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err


def test_bad_input_has_a_clear_error(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, good = data / "model.onnx", ("--evaluation", data / "evaluation.npz")
    (tmp_path / "model.h5").write_text("x")
    (tmp_path / "broken.onnx").write_text("x")
    (tmp_path / "data.npz").write_text("no archive")
    (tmp_path / "empty").mkdir()
    unlabelled = save_npz(tmp_path / "unlabelled.npz", image=images(3))
    fails(capsys, ExitCode.NOT_FOUND, "no such model", tmp_path / "missing.onnx", *good)
    fails(capsys, ExitCode.BAD_INPUT, "one of .onnx", tmp_path / "model.h5", *good)
    fails(capsys, ExitCode.BAD_INPUT, "does not load", tmp_path / "broken.onnx", *good)
    fails(capsys, ExitCode.BAD_INPUT, "is no bundle", tmp_path / "empty", *good)
    fails(capsys, ExitCode.BAD_INPUT, "not an .npz", model, "--evaluation", tmp_path / "data.npz")
    fails(capsys, ExitCode.BAD_INPUT, "no array `labels`", model, "--evaluation", unlabelled)
    fails(capsys, ExitCode.BAD_INPUT, "in this folder", model, "--evaluation", tmp_path / "empty")
    fails(capsys, ExitCode.USAGE, "did you mean", model, *good, "--metric", "top1")
    fails(capsys, ExitCode.USAGE, "takes no threshold", model, *good, "--threshold", 0.5)
    fails(
        capsys,
        ExitCode.BAD_INPUT,
        "compares with the float model",
        model,
        *good,
        "--metric",
        "output_sqnr_db",
    )
    fails(capsys, ExitCode.BAD_INPUT, "PYTHONPATH", model, *good, "--metric", "no_such_module:Metric")


def test_models_that_do_not_take_the_same_inputs(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(data / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 16
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 16
    other = save(model, tmp_path / "other.onnx")
    arguments = (data / "model.onnx", other, "--evaluation", data / "evaluation.npz")
    fails(capsys, ExitCode.BAD_INPUT, "its inputs are `image` FP32 [-1, 1, 16, 16]", *arguments)
