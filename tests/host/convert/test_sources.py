"""What a source is, told by its content."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from packhorse_host.convert.sources import recognise
from packhorse_host.errors import BadInputError, ConfigError


def archive(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("member", "content")
    return path


def script(folder: Path) -> Path:
    path = folder / "net.py"
    path.write_text("class Net: ...\n")
    return path


@pytest.mark.parametrize(
    ("name", "kind"), [("a.keras", "keras"), ("a.pt2", "torch-exported"), ("A.PT2", "torch-exported")]
)
def test_archives_go_by_name(name: str, kind: str, tmp_path: Path) -> None:
    assert recognise(archive(tmp_path / name)).kind == kind


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x1c\0\0\0TFL3\0\0", "tflite"),
        (b"\x89HDF\r\n\x1a\n", "keras"),
        (b"\x08\x07", "onnx"),
        (b"", "onnx"),
    ],
)
def test_files_go_by_content_whatever_their_name(head: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(head)
    assert recognise(path).kind == kind


def test_a_saved_model_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"saved_model\.pb is missing"):
        recognise(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    assert recognise(tmp_path).kind == "saved-model"


def test_a_module_is_named_in_its_file(tmp_path: Path) -> None:
    source = recognise(Path(f"{script(tmp_path)}:Net"))
    assert (source.kind, source.path) == ("torch-module", script(tmp_path))
    assert source.reference == f"{script(tmp_path)}:Net"


def test_weights_come_with_their_class(tmp_path: Path) -> None:
    weights = archive(tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"FILE\.py:NAME"):
        recognise(weights)
    assert recognise(weights, reference=f"{script(tmp_path)}:Net").kind == "state-dict"


def test_whole_objects_are_loaded_on_explicit_request_only(tmp_path: Path) -> None:
    weights, reference = archive(tmp_path / "w.pt"), f"{script(tmp_path)}:Net"
    assert recognise(weights, reference=reference).kind == "state-dict"
    assert recognise(weights, pickled=True).kind == "torch-pickle"


@pytest.mark.parametrize("reference", ["", ":", "net.py", "net.py:", "net.txt:Net", "net.py:a b"])
def test_a_reference_of_another_form_is_refused(reference: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        recognise(archive(tmp_path / "w.pth"), reference=reference)


@pytest.mark.parametrize("name", ["none.onnx", "none.py:Net"])
def test_a_missing_file_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such file"):
        recognise(tmp_path / name)


def test_an_archive_of_no_known_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="zip archive"):
        recognise(archive(tmp_path / "model.zip"))
