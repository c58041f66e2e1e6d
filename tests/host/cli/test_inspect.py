"""`packhorse inspect`: what a bundle is, or why it is not to be trusted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packhorse_agent.contract.manifest import Manifest
from packhorse_agent.contract.measurement import Measurement
from packhorse_host.bundle.pack import pack
from packhorse_host.bundle.request import PackRequest
from packhorse_host.cli.app import main
from tests.host.float_models import cnn, decisions, images, profile, save, save_npz


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    model = cnn()
    evaluation = images(50, seed=2)
    asked = PackRequest(
        save(model, folder / "model.onnx"),
        "net",
        "1.0",
        (profile(),),
        "static_wi8_ai8",
        calibration=save_npz(folder / "calibration.npz", image=images(32)),
        evaluation=save_npz(folder / "evaluation.npz", image=evaluation, labels=decisions(model, evaluation)),
        output=folder / "out",
    )
    return pack(asked, lambda text: None)[0].folder


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Path:
    """A good bundle, to be broken in one place."""
    return Path(shutil.copytree(good, tmp_path / "bundle"))


def run(*command: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["inspect", *command])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_people_see_what_it_is_and_how_good(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(bundle)) == 0
    shown = capsys.readouterr().out
    for words in (
        "net 1.0 for board, static_wi8_ai8",
        "drop in points (95 %)",
        "4 of 4",
        "golden.npz",
        "SQNR",
    ):
        assert words in shown


def test_programs_get_the_documents(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(bundle), "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert Manifest.model_validate(shown["manifest"]).model == "net"
    assert Measurement.model_validate(shown["measurement"]).manifest_sha256 == shown["digest"]


def test_a_bundle_without_a_measurement(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "measurement.json").unlink()
    assert run(str(bundle)) == 0
    assert "not with this bundle" in capsys.readouterr().out
    assert run(str(bundle), "--json") == 0
    assert json.loads(capsys.readouterr().out)["measurement"] is None


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _tampered(bundle: Path) -> None:
    _flip(bundle / "model.onnx")


def _tampered_golden(bundle: Path) -> None:
    _flip(bundle / "golden.npz")


def _truncated(bundle: Path) -> None:
    path = bundle / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])


def _incomplete(bundle: Path) -> None:
    (bundle / "golden.npz").unlink()


def _foreign_measurement(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"version":"1.0"', b'"version":"1.1"'))


def _no_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()


def _gone(bundle: Path) -> None:
    shutil.rmtree(bundle)


@pytest.mark.parametrize(
    ("breaks", "code"),
    [
        (_tampered, 5),
        (_tampered_golden, 5),
        (_truncated, 5),
        (_incomplete, 5),
        (_foreign_measurement, 5),
        (_no_manifest, 3),
        (_gone, 8),
    ],
)
def test_a_bundle_that_is_not_whole(
    bundle: Path, capsys: pytest.CaptureFixture[str], breaks: Callable[[Path], None], code: int
) -> None:
    breaks(bundle)
    assert run(str(bundle), "--json") == code
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.out == ""
