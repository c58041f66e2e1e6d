"""`packhorse trust`: what expires when, renewing, replacing keys, and the minimum version."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_host.cli.app import main
from packhorse_host.fleet.database import load_audit
from packhorse_host.fleet.opened import open_fleet
from packhorse_host.repository import KeyPlan
from packhorse_host.workspace import Workspace
from tests.host.repository.bundles import make_bundle

Run = Callable[..., tuple[int, str, str]]
ROLES = ["root", "targets", "model-detector", "rollouts", "snapshot", "timestamp"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with one release; the offline keys are encrypted with what the environment says."""
    workspace = Workspace.create(tmp_path / "fleet", "farm", KeyPlan(3, 2, "horse"), 1883)
    workspace.repository().publish([make_bundle(tmp_path / "bundle")], lambda _: "horse")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACKHORSE_WORKSPACE", str(workspace.folder))
    monkeypatch.setenv("PACKHORSE_PASSPHRASE", "horse")
    return workspace.folder


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `packhorse trust …`: exit code, standard output, standard error."""

    def one(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["trust", *arguments])
        output, errors = capsys.readouterr()
        return int(ended.value.code or 0), output, errors

    return one


def ask(run: Run, *arguments: str) -> Any:
    code, output, errors = run(*arguments, "--json")
    assert code == 0, errors
    return json.loads(output)


def audited(folder: Path) -> list[str]:
    with open_fleet(folder) as fleet, fleet.database.transaction() as connection:
        return [entry.text for entry in load_audit(connection)]


def test_show_says_what_expires_when_and_which_keys_are_there(run: Run, folder: Path) -> None:
    (folder / "keys/root-3.pem").unlink()
    shown = ask(run, "show")
    assert [one["role"] for one in shown] == ROLES
    root = shown[0]
    assert (root["threshold"], root["keys"], root["encrypted"]) == (2, 3, True)
    assert [Path(one).name for one in root["key_files"]] == ["root-1.pem", "root-2.pem"]
    assert datetime.fromisoformat(root["expires"]) > datetime.now(timezone.utc) + timedelta(days=700)
    assert shown[2]["minimum_version"] == "0"
    code, output, errors = run("show")
    assert (code, errors) == (ExitCode.OK, "")
    assert "2 of 3" in output
    assert "root-1, root-2 (encrypted)" in output


def test_show_warns_of_what_expires_soon(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = datetime.now(timezone.utc) + timedelta(days=340)
    monkeypatch.setattr("packhorse_agent.trust.clock.utc_now", lambda: later)
    assert "warning: targets expires in 24 days" in run("show")[2]
    warnings = {one["role"]: one["warning"] for one in ask(run, "show")}
    assert "packhorse trust renew model-detector" in warnings["model-detector"]
    assert warnings["root"] == ""
    assert [one["role"] for one in ask(run, "renew")] == ["targets", "model-detector"]


def test_renew_signs_what_is_named_or_due(run: Run, folder: Path) -> None:
    assert ask(run, "renew") == []
    assert "nothing expires within 90d" in run("renew")[2]
    (root,) = ask(run, "renew", "root")
    assert root["version"] == 2
    assert [one["role"] for one in ask(run, "renew", "--within", "9999d")] == ROLES[:3]
    assert audited(folder) == ["trust: renew root", "trust: renew root, targets, model-detector"]


def test_rotate_replaces_keys_and_says_where_they_are(run: Run, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in (folder / "keys").iterdir()}
    code, _, errors = run("rotate", "root", "online", "--root-keys", "2", "--root-threshold", "1")
    assert code == ExitCode.OK, errors
    assert "move them to separate safe places" in errors
    after = {path.name: path.read_bytes() for path in (folder / "keys").iterdir()}
    assert sorted(name for name in before if name not in after) == ["root-3.pem"]
    same = [name for name in after if after[name] == before[name]]
    assert sorted(same) == ["model-detector.pem", "targets.pem"]
    assert b"ENCRYPTED" in after["root-1.pem"]
    assert audited(folder) == ["trust: rotate root, rollouts, snapshot, timestamp"]


def test_a_rotation_may_take_a_new_passphrase(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("cart\n")
    assert run("rotate", "targets", "--new-passphrase-file", "new")[0] == ExitCode.OK
    assert run("renew", "targets")[0] == ExitCode.UNTRUSTED
    assert run("renew", "targets", "--passphrase-file", "new")[0] == ExitCode.OK


def test_root_keys_from_elsewhere(run: Run, folder: Path, tmp_path: Path) -> None:
    for name in ("alice", "bob"):
        (tmp_path / name).mkdir()
    (folder / "keys/root-1.pem").rename(tmp_path / "alice/root-1.pem")
    (folder / "keys/root-2.pem").rename(tmp_path / "bob/root-2.pem")
    code, _, errors = run("renew", "root", "--keys", "alice")
    assert code == ExitCode.OK, "root-3 lies in the workspace still"
    (folder / "keys/root-3.pem").unlink()
    code, _, errors = run("renew", "root", "--keys", "alice")
    assert (code, "1 of them are here" in errors) == (ExitCode.USAGE, True)
    assert run("renew", "root", "--keys", "alice", "--keys", "bob")[0] == ExitCode.OK


def test_a_minimum_version_is_signed_and_shown(run: Run, folder: Path) -> None:
    (role,) = ask(run, "minimum-version", "detector", "1.0")
    assert role["minimum_version"] == "1.0"
    assert audited(folder) == ["trust: minimum version of detector is 1.0"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("renew", "model-nosuch"), ExitCode.NOT_FOUND, "there are root, targets"),
        (("renew", "--within", "soon"), ExitCode.USAGE, "no duration"),
        (("renew", "root", "--keys", "nosuch"), ExitCode.USAGE, "no such folder"),
        (("rotate",), ExitCode.USAGE, "Missing argument"),
        (("rotate", "nosuch"), ExitCode.NOT_FOUND, "there is no role nosuch"),
        (("rotate", "targets", "--root-keys", "2"), ExitCode.USAGE, "go with the role root"),
        (("rotate", "root", "--root-threshold", "4"), ExitCode.USAGE, "4 of 3 root keys cannot be"),
        (("rotate", "root", "--new-passphrase-file", "nosuch"), ExitCode.USAGE, "cannot be read"),
        (("minimum-version", "nosuch", "1"), ExitCode.NOT_FOUND, "no release of nosuch"),
        (("minimum-version", "detector", "9"), ExitCode.REFUSED, "no published release"),
        (("minimum-version", "detector", "new"), ExitCode.BAD_INPUT, "is no version"),
    ],
)
def test_what_cannot_be_done_says_why_and_changes_nothing(
    run: Run, folder: Path, arguments: tuple[str, ...], code: ExitCode, text: str
) -> None:
    before = {path: path.read_bytes() for path in (folder / "keys").iterdir()}
    version = Workspace.open(folder).repository().version()
    got, output, errors = run(*arguments)
    assert (got, output) == (code, ""), errors
    assert text in errors
    assert {path: path.read_bytes() for path in (folder / "keys").iterdir()} == before
    assert Workspace.open(folder).repository().version() == version
    assert audited(folder) == []


def test_a_wrong_passphrase_is_said(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACKHORSE_PASSPHRASE", "wrong")
    code, _, errors = run("rotate", "root")
    assert code == ExitCode.UNTRUSTED
    assert "the passphrase does not open the key root-1" in errors
