"""`packhorse init` and `packhorse publish`: exit codes, output, and passphrases from every place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_host.cli.app import main
from packhorse_host.repository import Repository
from packhorse_host.workspace import Workspace
from tests.host.repository.bundles import make_bundle


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PACKHORSE_PASSPHRASE", raising=False)
    monkeypatch.delenv("PACKHORSE_WORKSPACE", raising=False)
    monkeypatch.chdir(tmp_path)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(one) for one in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def repository() -> Repository:
    return Workspace.open(Path("fleet")).repository()


def test_init_and_publish(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", "fleet", "--fleet", "farm", "--unencrypted-keys", "--json") == ExitCode.OK
    made = json.loads(capsys.readouterr().out)
    assert made == {"workspace": str(Path("fleet").absolute()), "fleet": "farm"}
    bundle = make_bundle(Path("bundle"))
    assert run("publish", "-w", "fleet", bundle, "--json") == ExitCode.OK
    [ref] = json.loads(capsys.readouterr().out)
    assert ref["target"] == "bundles/detector/1.0/raspberry-pi-5/static_wi8_ai8/manifest.json"
    assert [one.version for one in repository().releases()] == ["1.0"]


def test_the_fleet_is_named_after_the_folder() -> None:
    assert run("init", "fleet", "--unencrypted-keys", "--port", 1999) == ExitCode.OK
    workspace = Workspace.open(Path("fleet"))
    assert (workspace.fleet, workspace.settings.broker.port) == ("fleet", 1999)


def test_root_keys_and_threshold_are_chosen() -> None:
    options = ("--root-keys", 5, "--root-threshold", 3, "--unencrypted-keys")
    assert run("init", "fleet", *options) == ExitCode.OK
    root = json.loads(repository().root_metadata())["signed"]["roles"]["root"]
    assert (len(root["keyids"]), root["threshold"]) == (5, 3)
    assert len(list(Path("fleet/keys").glob("root-*.pem"))) == 5


@pytest.mark.parametrize("place", ["file", "environment"])
def test_a_passphrase_from_a_file_or_the_environment(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("secret").write_text("correct horse\n")
    options = ("--passphrase-file", "secret") if place == "file" else ()
    if place == "environment":
        monkeypatch.setenv("PACKHORSE_PASSPHRASE", "correct horse")
    assert run("init", "fleet", *options) == ExitCode.OK
    assert b"ENCRYPTED" in Path("fleet/keys/targets.pem").read_bytes()
    assert run("publish", "-w", "fleet", make_bundle(Path("bundle")), *options) == ExitCode.OK


def test_a_wrong_passphrase_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PACKHORSE_PASSPHRASE", "correct horse")
    run("init", "fleet")
    monkeypatch.setenv("PACKHORSE_PASSPHRASE", "wrong")
    before = sorted(Path("fleet").rglob("*"))
    assert run("publish", "-w", "fleet", make_bundle(Path("bundle"))) == ExitCode.UNTRUSTED
    assert "error: the passphrase does not open the key targets" in capsys.readouterr().err
    assert sorted(Path("fleet").rglob("*")) == before


def test_without_a_passphrase_and_nobody_to_ask_nothing_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", "fleet") == ExitCode.USAGE
    assert "--passphrase-file" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("content", [None, "", "\nsecond line"])
def test_a_passphrase_file_has_to_hold_one(content: str | None) -> None:
    if content is not None:
        Path("secret").write_text(content)
    assert run("init", "fleet", "--passphrase-file", "secret") == ExitCode.USAGE
    assert not Path("fleet").exists()


def test_a_folder_that_is_not_empty(capsys: pytest.CaptureFixture[str]) -> None:
    Path("fleet").mkdir()
    Path("fleet/mine").write_text("x")
    assert run("init", "fleet", "--unencrypted-keys") == ExitCode.CONFLICT
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [("--fleet", "Farm"), ("--port", 0), ("--root-threshold", 4), ("--root-keys", 0)]
)
def test_a_wrong_option(options: tuple[object, ...]) -> None:
    assert run("init", "fleet", "--unencrypted-keys", *options) == ExitCode.USAGE
    assert list(Path().iterdir()) == []


def test_publish_without_a_workspace() -> None:
    assert run("publish", make_bundle(Path("bundle"))) == ExitCode.NOT_FOUND


def test_publish_of_what_is_no_bundle_or_a_broken_one(capsys: pytest.CaptureFixture[str]) -> None:
    run("init", "fleet", "--unencrypted-keys")
    assert run("publish", "-w", "fleet", "missing") == run("inspect", "missing") == ExitCode.NOT_FOUND
    assert "missing: there is no such bundle" in capsys.readouterr().err
    Path("empty").mkdir()
    assert run("publish", "-w", "fleet", "empty") == run("inspect", "empty") == ExitCode.BAD_INPUT
    bundle = make_bundle(Path("bundle"))
    (bundle / "model.onnx").write_bytes(b"changed")
    assert run("publish", "-w", "fleet", bundle) == ExitCode.UNTRUSTED
    assert repository().releases() == []
