"""What the doctor finds in a workspace: each fault by itself, named, with a way out."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import update

from packhorse_agent.store.lock import FolderLock
from packhorse_host.fleet import doctor, schema
from packhorse_host.fleet.database import append_audit
from packhorse_host.fleet.doctor import Check, examine
from packhorse_host.fleet.opened import open_fleet
from packhorse_host.repository import KeyPlan
from packhorse_host.workspace import SETTINGS_FILE, Workspace
from tests.helpers import free_port
from tests.host.repository.bundles import make_bundle

NOW = datetime.now(timezone.utc)
CONTENT = b"weights" * 20_000
"""More than one chunk: it has an index too."""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = Workspace.create(tmp_path / "fleet", "farm", KeyPlan(1, 1, None), free_port())
    found.repository().publish([make_bundle(tmp_path / "bundle", content=CONTENT)])
    return found


def problems(workspace: Workspace, now: datetime = NOW, *, deep: bool = False) -> list[Check]:
    return [one for one in examine(workspace.folder, now, deep=deep) if one.verdict == "problem"]


def notes(workspace: Workspace, now: datetime = NOW) -> dict[str, str]:
    return {one.what: one.detail for one in examine(workspace.folder, now) if one.verdict == "note"}


def blob_files(workspace: Workspace) -> list[Path]:
    return sorted((workspace.repository_folder / "blobs").iterdir(), key=lambda path: path.stat().st_size)


def test_a_workspace_that_is_well(workspace: Workspace) -> None:
    checks = {one.what: one for one in examine(workspace.folder, NOW, deep=True)}
    assert problems(workspace) == []
    assert list(checks) == [
        "workspace", "disk", "keys", "repository", "signatures", "database", "controller", "broker", "port",
    ]  # fmt: skip
    assert checks["repository"].detail == (
        "devices accept it; 1 bundles have all their files, each with its digest"
    )
    assert "until `packhorse serve` runs" in notes(workspace)["controller"]


def test_no_workspace_is_the_first_thing_to_mend(tmp_path: Path) -> None:
    (only,) = examine(tmp_path / "nosuch", NOW)
    assert (only.what, only.verdict) == ("workspace", "problem")
    assert "packhorse init" in only.detail


def test_settings_that_cannot_be_read_are_named(workspace: Workspace) -> None:
    (workspace.folder / SETTINGS_FILE).write_text("flet = 1")
    (only,) = examine(workspace.folder, NOW)
    assert 'did you mean "fleet"?' in only.detail


@pytest.mark.parametrize(("name", "mode"), [("targets.pem", 0o644), ("root-1.pem", 0o660), (".", 0o755)])
def test_keys_that_others_may_use(workspace: Workspace, name: str, mode: int) -> None:
    (workspace.keys_folder / name).chmod(mode)
    (problem,) = problems(workspace)
    assert problem.what == "keys"
    assert "chmod" in problem.detail and str((workspace.keys_folder / name).resolve()) in problem.detail


def test_root_keys_in_one_place_are_a_note(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "several", "farm", KeyPlan(3, 2, None), free_port())
    assert "root-1.pem, root-2.pem, root-3.pem share" in notes(workspace)["root keys"]
    for number in (1, 2):
        (workspace.keys_folder / f"root-{number}.pem").unlink()
    assert "root keys" not in notes(workspace)


def test_what_expires_is_a_note_and_then_a_problem(workspace: Workspace) -> None:
    soon, late = NOW + timedelta(days=350), NOW + timedelta(days=366)
    workspace.repository().refresh(NOW)
    assert "timestamp expired" in " ".join(
        one.detail for one in examine(workspace.folder, soon) if one.what == "signatures"
    )
    assert problems(workspace, soon) == []
    assert {one.what for one in problems(workspace, late)} == {"signatures"}
    assert "`packhorse trust renew" in problems(workspace, late)[0].detail


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


@pytest.mark.parametrize(
    ("spoil", "deep"),
    [(Path.unlink, False), (lambda path: path.write_bytes(b"short"), False), (damage, True)],
)
def test_a_published_file_that_is_missing_or_damaged(
    workspace: Workspace, tmp_path: Path, spoil: Callable[[Path], None], deep: bool
) -> None:
    model = blob_files(workspace)[-1]
    spoil(model)
    (problem,) = problems(workspace, deep=deep)
    assert str(model) in problem.detail
    assert "model.onnx of detector 1.0" in problem.detail
    workspace.repository().publish([tmp_path / "bundle"])
    assert problems(workspace, deep=True) == []


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.root.json"])
def test_metadata_that_is_damaged_or_gone(workspace: Workspace, name: str) -> None:
    metadata = workspace.repository_folder / "metadata"
    path = metadata / name
    if name == "1.snapshot.json":
        path = max(metadata.glob("*.snapshot.json"))
    for spoil in (lambda: path.write_bytes(b"{}"), path.unlink):
        spoil()
        assert "repository" in {one.what for one in problems(workspace)}


def test_metadata_that_nobody_trusts(workspace: Workspace) -> None:
    path = workspace.repository_folder / "metadata/timestamp.json"
    document = json.loads(path.read_text())
    document["signatures"][0]["sig"] = "00" * 64
    path.write_text(json.dumps(document))
    assert [one.what for one in problems(workspace)] == ["repository"]
    assert "devices refuse it" in problems(workspace)[0].detail


def test_a_changed_audit_log(workspace: Workspace) -> None:
    with open_fleet(workspace.folder) as fleet, fleet.database.transaction() as connection:
        append_audit(connection, 1.0, "me", "this")
        connection.execute(update(schema.audit).values(text="that"))
    assert [one.what for one in problems(workspace)] == ["database"]


def test_a_file_that_is_no_database(workspace: Workspace) -> None:
    (workspace.folder / "database.sqlite").write_bytes(b"something else" * 1000)
    assert [one.what for one in problems(workspace)] == ["database"]


def test_a_port_that_another_program_has(workspace: Workspace) -> None:
    with socket.create_server(("127.0.0.1", workspace.settings.broker.port)):
        (problem,) = problems(workspace)
    assert "is taken by another program" in problem.detail


def test_a_controller_whose_broker_does_not_answer(workspace: Workspace) -> None:
    with FolderLock(workspace.folder / "controller.lock"):
        assert "controller" not in notes(workspace)
        (problem,) = problems(workspace)
        assert "cannot be reached" in problem.detail
        with socket.create_server(("127.0.0.1", workspace.settings.broker.port)):
            assert problems(workspace) == []


def test_a_disk_that_is_nearly_full(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FREE_WANTED_BYTES", 2**62)
    assert str(workspace.folder) in notes(workspace)["disk"]
    monkeypatch.setattr(doctor, "FREE_NEEDED_BYTES", 2**62)
    assert "free some space" in problems(workspace)[0].detail


def test_several_faults_are_all_said(workspace: Workspace) -> None:
    (workspace.keys_folder / "targets.pem").chmod(0o644)
    (workspace.folder / "database.sqlite").write_bytes(b"something else" * 1000)
    blob_files(workspace)[-1].unlink()
    assert {one.what for one in problems(workspace)} == {"keys", "database", "repository"}
