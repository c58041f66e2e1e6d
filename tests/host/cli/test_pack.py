"""`packhorse pack` from the shell: what it prints, and how it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packhorse_agent.contract.manifest import Evidence
from packhorse_agent.profiles import BUILTIN_FOLDER
from packhorse_host.cli.app import main
from tests.host.float_models import cnn, decisions, images, save, save_npz


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    model = cnn()
    save(model, folder / "model.onnx")
    evaluation = images(200, seed=2)
    save_npz(folder / "calibration.npz", image=images(64, seed=1))
    save_npz(folder / "evaluation.npz", image=evaluation, labels=decisions(model, evaluation))
    (folder / "labels.txt").write_text("a\nb\nc\nd\n")
    return folder


def arguments(data: Path, output: Path, **changes: str | None) -> list[str]:
    """A good command line, changed in one place; None leaves an option out."""
    options: dict[str, str | None] = {
        "name": "net",
        "version": "1.0",
        "profile": "raspberry-pi-5",
        "recipe": "static_wi8_ai8",
        "calibration": str(data / "calibration.npz"),
        "evaluation": str(data / "evaluation.npz"),
        "labels": str(data / "labels.txt"),
        "output": str(output),
    }
    model = changes.pop("model", str(data / "model.onnx"))
    options |= {name.replace("_", "-"): value for name, value in changes.items()}
    given = [(f"--{name}", value) for name, value in options.items() if value is not None]
    return ["pack", str(model), *(part for pair in given for part in pair)]


def run(*command: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_json_is_one_list_and_nothing_else(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One object for each profile, with paths that exist; standard error stays quiet."""
    code = run(*arguments(data, tmp_path / "out"), "--profile", "jetson-orin-nano", "--json")
    shown = capsys.readouterr()
    assert code == 0, shown.err
    bundles = json.loads(shown.out)
    assert [each["profile"] for each in bundles] == ["raspberry-pi-5", "jetson-orin-nano"]
    for each in bundles:
        assert Path(each["bundle"]).is_dir()
        assert Path(each["model"]).is_file()
        assert each["recipe"] == "static_wi8_ai8"
        assert Evidence.model_validate(each["evidence"]).integer_kernels == 4
    assert "quantizing" not in shown.err


def test_people_see_progress_and_a_table(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain lines where standard error is no terminal."""
    assert run(*arguments(data, tmp_path)) == 0
    shown = capsys.readouterr()
    assert "net-1.0-raspberry-pi-5-static_wi8_ai8" in shown.out
    assert "4 of 4" in shown.out
    assert shown.err.splitlines()[:2] == ["reading model.onnx", "quantizing by static_wi8_ai8"]
    assert "\x1b" not in shown.out + shown.err


def test_a_search_is_shown_and_drawn(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a table for people, in JSON for programs, and as a picture."""
    front = tmp_path / "front.png"
    searched = arguments(data, tmp_path / "out", recipe="auto", max_drop="20", front=str(front))
    assert run(*searched) == 0
    shown = capsys.readouterr()
    assert "Searched for raspberry-pi-5. Taken: static_wi8_ai8: of those that hold the budget" in shown.out
    assert "candidate 1: static_wi8_ai8 (what the profile prefers)" in shown.err
    assert front.read_bytes().startswith(b"\x89PNG")
    assert run(*searched, "--json") == 0
    (bundle,) = json.loads(capsys.readouterr().out)
    assert [each["text"] for each in bundle["search"]["tried"]] == ["fp32", "static_wi8_ai8"]
    assert bundle["evidence"]["recipe_reason"] == bundle["search"]["why"]


def test_a_profile_from_a_file(data: Path, tmp_path: Path) -> None:
    text = (BUILTIN_FOLDER / "raspberry-pi-5.toml").read_text().replace('"raspberry-pi-5"', '"my-board"')
    (tmp_path / "my-board.toml").write_text(text)
    assert run(*arguments(data, tmp_path / "out", profile=str(tmp_path / "my-board.toml"))) == 0
    assert (tmp_path / "out" / "net-1.0-my-board-static_wi8_ai8").is_dir()


def test_what_is_overridden_is_said_loudly(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments(data, tmp_path, max_drop="0", allow="max-drop")) == 0
    assert "warning: raspberry-pi-5: overridden by --allow" in capsys.readouterr().err


def _text_file(folder: Path) -> str:
    path = folder / "bad.onnx"
    path.write_text("not a model")
    return str(path)


def _wrong_shape(folder: Path) -> str:
    return str(save_npz(folder / "bad.npz", image=images(4)[..., :5]))


def _empty(folder: Path) -> str:
    return str(save_npz(folder / "bad.npz", image=images(0), labels=np.zeros(0, np.int64)))


def _nan(folder: Path) -> str:
    return str(save_npz(folder / "bad.npz", image=images(4) * np.float32("nan")))


def _pickle(folder: Path) -> str:
    np.savez(folder / "bad.npz", image=np.array([object()], dtype=object))
    return str(folder / "bad.npz")


def _three_labels(folder: Path) -> str:
    path = folder / "bad.txt"
    path.write_text("a\nb\nc\n")
    return str(path)


def _missing(folder: Path) -> str:
    return str(folder / "missing")


def _a_file(folder: Path) -> str:
    path = folder / "a-file"
    path.write_text("")
    return str(path)


def _word(text: str) -> Callable[[Path], str]:
    return lambda folder: text


@pytest.mark.parametrize(
    ("option", "value", "code", "words"),
    [
        ("model", _text_file, 3, "not an ONNX file"),
        ("model", _missing, 3, "no such file"),
        ("calibration", _wrong_shape, 3, "must be [samples, 1, 8, 8], found [4, 1, 8, 5]"),
        ("calibration", _nan, 3, "NaN"),
        ("calibration", _pickle, 3, "pickle"),
        ("calibration", _missing, 3, "no such file"),
        ("evaluation", _empty, 3, "empty"),
        ("labels", _three_labels, 3, "expected 4 labels"),
        ("profile", _word("rasberry-pi-5"), 8, "raspberry-pi-5"),
        ("recipe", _word("static_wi8"), 2, "static_wi8_ai8"),
        ("allow", _word("max-dorp"), 2, "max-drop"),
        ("allow", _word("not-finite"), 2, "there is no"),
        ("calibration_method", _word("mes"), 2, "mse"),
        ("percentile", _word("3"), 2, "--percentile"),
        ("prefer", _word("sped"), 2, "speed"),
        ("front", _word("front.png"), 2, "--recipe auto"),
        ("name", _word("A B"), 2, "--name"),
        ("max_drop", _word("0"), 4, "--allow max-drop"),
        ("output", _a_file, 6, "a-file"),
    ],
)
def test_bad_input_has_a_clear_error_and_leaves_nothing(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: Callable[[Path], str],
    code: int,
    words: str,
) -> None:
    output = tmp_path / "out"
    changes: dict[str, Any] = {option: value(tmp_path)}
    assert run(*arguments(data, **({"output": output} | changes)), "--json") == code
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert words in shown.err
    assert shown.out == ""
    assert not output.exists()


def test_a_missing_option_is_a_usage_error(data: Path, tmp_path: Path) -> None:
    assert run(*arguments(data, tmp_path, name=None)) == 2


_CALL_MAIN = "from packhorse_host.cli.app import main; main()"


@pytest.mark.slow
def test_two_processes_make_the_same_bundle(data: Path, tmp_path: Path) -> None:
    """Whatever the order of Python's sets; the digest is the manifest's."""
    digests = []
    for seed in ("1", "2"):
        command = [sys.executable, "-c", _CALL_MAIN, *arguments(data, tmp_path / seed), "--json"]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        result = subprocess.run(command, env=environment, check=True, capture_output=True, timeout=100)
        digests.append(json.loads(result.stdout)[0]["digest"])
    assert digests[0] == digests[1]
