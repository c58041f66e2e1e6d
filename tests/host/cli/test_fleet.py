"""The commands of a fleet, from the command line to the database."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packhorse_agent.contract.enrolment import Enrolment
from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.store.lock import FolderLock
from packhorse_agent.trust.keys import DeviceKey, make_signing_request
from packhorse_host.cli.app import main
from packhorse_host.fleet.database import latest_deployments, load_rollout, save_rollout
from packhorse_host.fleet.devices import store_deployment, store_inventory
from packhorse_host.fleet.model import RolloutProgress
from packhorse_host.fleet.opened import open_fleet
from packhorse_host.repository import KeyPlan
from packhorse_host.telemetry.ingest import Ingest
from packhorse_host.workspace import Workspace
from tests.fakes.fleet import state, window
from tests.host.repository.bundles import make_bundle
from tests.host.telemetry.conftest import Sender, topic
from tests.host.telemetry.test_ingest import inventory

Run = Callable[..., tuple[int, str, str]]
START = ("rollout", "start", "--model", "detector", "--release", "1.0", "--slot", "detector")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with one release, and the command line in an empty folder beside it."""
    workspace = Workspace.create(tmp_path / "fleet", "farm", KeyPlan(1, 1, None), 1883)
    workspace.repository().publish([make_bundle(tmp_path / "bundle")])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PACKHORSE_WORKSPACE", str(workspace.folder))
    return workspace.folder


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command: exit code, standard output, standard error."""

    def one(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        output, errors = capsys.readouterr()
        return int(ended.value.code or 0), output, errors

    return one


def ask(run: Run, *arguments: str) -> Any:
    code, output, errors = run(*arguments, "--json")
    assert code == 0, errors
    return json.loads(output)


def request(folder: Path, name: str = "camera") -> Path:
    key = DeviceKey.load_or_create(folder / f"{name}.key")
    path = folder / f"{name}.request.json"
    path.write_text(make_signing_request(key, name, "raspberry-pi-5").model_dump_json())
    return path


@pytest.fixture
def camera(run: Run, folder: Path) -> Sender:
    """An enrolled device that has reported."""
    assert run("device", "enroll", str(request(folder)), "--tag", "canary")[0] == 0
    sender = Sender("camera", DeviceKey.load_or_create(folder / "camera.key"))
    with open_fleet(folder) as fleet:
        Ingest(fleet.database, lambda: 5.0).take(topic("camera"), sender.seal(1, window(1), window(2)))
        with fleet.database.transaction() as connection:
            store_inventory(connection, "camera", inventory(), 5.0)
            store_deployment(connection, "camera", state(0, "on its way"), 5.0)
    return sender


def test_enrolling_writes_what_the_device_accepts_for_its_eyes_only(run: Run, folder: Path) -> None:
    code, output, errors = run("device", "enroll", str(request(folder)))
    path = Path("camera.enrolment.json")
    assert (code, output) == (0, "")
    assert "camera.enrolment.json" in errors
    assert Enrolment.model_validate_json(path.read_bytes()).device_id == "camera"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_device_that_lost_its_state_is_enrolled_again_when_that_is_said(run: Run, folder: Path) -> None:
    run("device", "enroll", str(request(folder)), "--tag", "canary")
    (folder / "camera.key").unlink()
    code, _, errors = run("device", "enroll", str(request(folder)))
    assert code == ExitCode.CONFLICT
    assert "--replace-key" in errors
    assert run("device", "enroll", str(request(folder)), "--replace-key")[0] == ExitCode.OK
    (device,) = ask(run, "device", "list")
    assert "no controller runs" in run("device", "list")[2]
    assert device["public_key"] == json.loads(request(folder).read_bytes())["public_key"]
    assert device["tags"] == ["canary"]


def test_a_removed_device_is_gone_from_the_list_and_marked_where_it_is_shown(
    run: Run, camera: Sender, folder: Path
) -> None:
    code, output, errors = run("device", "remove", "camera")
    assert (code, output) == (ExitCode.OK, "")
    assert "camera is removed" in errors
    assert ask(run, "device", "list") == []
    assert "no device is enrolled" in run("device", "list")[2]
    assert "removed" in run("device", "list", "--removed")[1]
    shown = ask(run, "device", "show", "camera")
    assert shown["removed_unix_s"] is not None
    assert shown["history"][0]["detail"] == "on its way"
    assert "removed 20" in run("device", "show", "camera")[1]
    assert run(*START, "--phase", "all:share=100%")[0] == ExitCode.REFUSED, "it is selected no more"
    assert "removed before" in run("device", "remove", "camera")[2]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("device", "remove", "nobody"), ExitCode.NOT_FOUND, "no device nobody"),
        (("device", "enroll", "none.json"), ExitCode.BAD_INPUT, "packhorse-agent request"),
        (("device", "show", "nobody"), ExitCode.NOT_FOUND, "no device nobody"),
        (("rollout", "show", "nosuch"), ExitCode.NOT_FOUND, "no rollout nosuch"),
        (("rollout", "pause", "nosuch"), ExitCode.NOT_FOUND, "no rollout nosuch"),
        (("rollout", "resume", "nosuch"), ExitCode.NOT_FOUND, "no rollout nosuch"),
        (("rollout", "abort", "nosuch"), ExitCode.NOT_FOUND, "no rollout nosuch"),
        (("rollout", "abort", "x", "--cancel", "--revert"), ExitCode.USAGE, "exclude each other"),
        ((*START, "--phase", "all"), ExitCode.USAGE, "selects nobody"),
        ((*START, "--phase", "all:share=200%"), ExitCode.USAGE, "no share"),
        ((*START, "--phase", "all:share=1%", "--on-failure", "panic"), ExitCode.USAGE, "on_failure"),
        ((*START, "--phase", "all:share=1%", "--id", "Not An Id"), ExitCode.USAGE, "id"),
        ((*START, "--phase", "all:share=100%"), ExitCode.REFUSED, "--approve-empty"),
        ((*START, "--phase", "all:share=1%", "--recipe", "none"), ExitCode.NOT_FOUND, "detector 1.0"),
        ((*START[:5], "9.9", *START[6:], "--phase", "a:share=1%"), ExitCode.NOT_FOUND, "not published"),
        (START, ExitCode.USAGE, "--phase"),
        (("report", "--since", "yesterday"), ExitCode.USAGE, "no duration"),
        (("serve", "--log-level", "loud"), ExitCode.USAGE, "--log-level"),
        (("device", "list", "-w", "/nosuch"), ExitCode.NOT_FOUND, "packhorse init"),
    ],
)
def test_what_cannot_be_done_says_why(
    run: Run, arguments: tuple[str, ...], code: ExitCode, text: str
) -> None:
    got, output, errors = run(*arguments)
    assert got == code, errors
    assert text in errors
    assert output == ""
    assert "Traceback" not in errors


def test_devices_are_listed_and_shown(run: Run, camera: Sender) -> None:
    listed = ask(run, "device", "list")
    assert [(one["device_id"], one["tags"], one["simulated"]) for one in listed] == [
        ("camera", ["canary"], True)
    ]
    shown = ask(run, "device", "show", "camera")
    assert shown["history"][0]["detail"] == "on its way"
    assert shown["figures"][0]["requests"] == 6
    _, output, _ = run("device", "list")
    assert "raspberry-pi-5 (simulated)" in output
    _, output, _ = run("device", "show", "camera")
    assert "Cortex-A76, 4 cores" in output
    assert "power: none: no source" in output
    assert "on its way" in output
    assert "6 requests" in output


def test_a_device_that_has_not_reported_is_shown_too(run: Run, folder: Path) -> None:
    run("device", "enroll", str(request(folder)))
    _, output, _ = run("device", "show", "camera")
    assert "not reported yet" in output


def test_a_rollout_from_its_start_to_its_end(run: Run, camera: Sender, folder: Path) -> None:
    begun = ask(
        run, *START, "--id", "first", "--phase", "canary:tag=canary,soak=1s", "--phase", "all:share=100%"
    )
    assert (begun["progress"], begun["spec"]["on_failure"]) == ("running", "pause")
    assert run(*START, "--id", "second", "--phase", "all:share=100%")[0] == ExitCode.CONFLICT
    assert run("rollout", "resume", "first")[0] == ExitCode.CONFLICT
    assert "first is paused" in run("rollout", "pause", "first")[2]
    assert "first is running" in run("rollout", "resume", "first", "--approve-empty")[2]
    (listed,) = ask(run, "rollout", "list")
    assert (listed["generation"], listed["spec"]["approve_empty"]) == (2, True)
    _, output, _ = run("rollout", "list")
    assert "canary (1 of 2)" in output
    shown = ask(run, "rollout", "show", "first")
    assert shown["devices"] == []
    assert "first is reverted" in run("rollout", "abort", "first", "--revert")[2]
    assert "reverted by" in run("rollout", "show", "first")[1]
    assert run("rollout", "abort", "first")[0] == ExitCode.CONFLICT


def test_a_rollout_shows_each_device_with_its_reason(run: Run, camera: Sender, folder: Path) -> None:
    ask(run, *START, "--id", "first", "--phase", "all:share=100%")
    with open_fleet(folder) as fleet, fleet.database.transaction() as connection:
        failed = {"state": "failed", "reason": "probe_failed", "detail": "too far off"}
        report = type(state(1)).model_validate({**state(1).model_dump(), **failed})
        store_deployment(connection, "camera", report, 6.0)
        assert len(latest_deployments(connection, "first", 1)) == 1
    _, output, _ = run("rollout", "show", "first")
    assert "probe_failed: too far off" in output


@pytest.mark.parametrize(
    ("progress", "code"),
    [(RolloutProgress.COMPLETED, ExitCode.OK), (RolloutProgress.PAUSED, ExitCode.REFUSED)],
)
def test_waiting_returns_when_the_rollout_rests(
    run: Run,
    camera: Sender,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    progress: RolloutProgress,
    code: ExitCode,
) -> None:
    def controller_acts(_: float) -> None:
        with open_fleet(folder) as fleet, fleet.database.transaction() as connection:
            record = load_rollout(connection, "first")
            changed = {"progress": progress, "reason": "as it went"}
            save_rollout(connection, record.model_copy(update=changed))

    monkeypatch.setattr("packhorse_host.cli.rollout.time.sleep", controller_acts)
    got, output, errors = run(*START, "--id", "first", "--phase", "all:share=100%", "--wait", "--json")
    assert got == code
    assert json.loads(output)["progress"] == progress.value
    assert "as it went" in errors


def test_the_report_shows_figures_and_what_was_dropped(run: Run, camera: Sender, folder: Path) -> None:
    with open_fleet(folder) as fleet:
        Ingest(fleet.database, lambda: 5.0).take(topic("camera"), b"forged")
    report = ask(run, "report")
    (release,) = report["releases"]
    assert (release["model"], release["requests"], release["simulated"]) == ("sample", 6, True)
    assert release["latency_p50_us"] is not None
    assert report["dropped_reports"] == [{"device": "camera", "cause": "malformed", "reports": 1}]
    _, output, errors = run("report")
    assert "none: no INA3221" in output
    assert "1 reports dropped, malformed" in errors
    assert ask(run, "report", "--since", "1h")["releases"] == []
    assert ask(run, "report", "--model", "other")["releases"] == []


def test_empty_lists_are_said_and_are_empty_for_programs(run: Run) -> None:
    for command, text in (
        (("device", "list"), "no device is enrolled yet"),
        (("rollout", "list"), "there is no rollout yet"),
        (("report",), "no device has reported figures yet"),
        (("report", "--model", "detector", "--since", "1h"), "figures of detector in the last 1h"),
    ):
        code, output, errors = run(*command)
        assert (code, output) == (ExitCode.OK, ""), command
        assert text in errors
    assert ask(run, "device", "list") == ask(run, "rollout", "list") == []
    assert ask(run, "report") == {"releases": [], "dropped_reports": []}


def test_starting_a_rollout_without_a_controller_says_so(run: Run, camera: Sender, folder: Path) -> None:
    begun = (*START, "--phase", "all:share=100%", "--id")
    assert "nothing is delivered until `packhorse serve` runs" in run(*begun, "first")[2]
    run("rollout", "abort", "first")
    with FolderLock(folder / "controller.lock"):
        assert "warning" not in run(*begun, "second")[2]


def test_a_device_that_was_taken_back_is_shown_with_the_reason(
    run: Run, camera: Sender, folder: Path
) -> None:
    ask(run, *START, "--id", "other", "--phase", "all:share=100%")
    assert "no device has answered yet" in run("rollout", "show", "other")[2]
    with open_fleet(folder) as fleet, fleet.database.transaction() as connection:
        idle = {"state": "idle", "reason": None, "detail": "withdrawn", "rollout_id": "other"}
        report = type(state(1)).model_validate({**state(1).model_dump(), **idle})
        store_deployment(connection, "camera", report, 6.0)
    run("rollout", "abort", "other", "--cancel")
    for command in (("rollout", "show", "other"), ("device", "show", "camera")):
        assert "withdrawn: cancelled by" in run(*command)[1]
    run("device", "remove", "camera")
    assert "camera (removed)" in run("rollout", "show", "other")[1]


def test_the_doctor_ends_with_a_code_when_something_is_wrong(run: Run, folder: Path) -> None:
    (folder / "keys/targets.pem").chmod(0o644)
    code, output, _ = run("doctor", "--json")
    assert code == ExitCode.ENVIRONMENT
    assert {one["verdict"] for one in json.loads(output)} >= {"good", "note", "problem"}
    code, output, errors = run("doctor")
    assert (code, errors) == (ExitCode.ENVIRONMENT, "")
    assert "chmod 600" in output
