"""What `packhorse pack` is told about a source and a runtime."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse_host.cli.app import main

TFLITE = Path(__file__).parents[2] / "data" / "fashion-mnist.tflite"


def refused(capsys: pytest.CaptureFixture[str], model: str, *more: str) -> tuple[int, str]:
    command = ["pack", model, "--name", "net", "--version", "1.0", "--profile", "raspberry-pi-5", *more]
    with pytest.raises(SystemExit) as ended:
        main(command)
    code = ended.value.code
    assert isinstance(code, int)
    return code, capsys.readouterr().err


def test_an_unknown_runtime_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, error = refused(capsys, "model.onnx", "--runtime", "litter")
    assert code == 2
    assert 'did you mean "litert"' in error


def test_a_runtime_that_the_profile_has_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, error = refused(capsys, str(TFLITE), "--recipe", "fp32", "--runtime", "litert")
    assert code == 3
    assert "raspberry-pi-5" in error


def test_a_source_that_is_not_converted_for_the_profile_is_refused_with_what_works(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, error = refused(capsys, str(TFLITE), "--recipe", "fp32")
    assert code == 3
    assert "pack it for litert" in " ".join(error.split())


def test_an_input_of_another_form_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, error = refused(capsys, str(TFLITE), "--recipe", "fp32", "--input", "image")
    assert code == 2
    assert "NAME:DATATYPE:LENGTHS" in error


def test_weights_without_their_class_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"PK\x03\x04")
    code, error = refused(capsys, str(weights), "--recipe", "fp32")
    assert code == 2
    assert "FILE.py:NAME" in error
