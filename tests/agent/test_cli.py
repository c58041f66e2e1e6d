"""The command line on the device: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from packhorse_agent import cli
from packhorse_agent.cli import main
from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.enrolment import SigningRequest
from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.control import CONTROL_SOCKET, ControlServer, PendingRequest
from packhorse_agent.errors import ConflictError, NotFoundError
from packhorse_agent.supervisor.identity import ENROLMENT_FILE, load_identity
from packhorse_agent.trust.keys import check_signing_request
from tests.agent.agents import DEVICE, PROFILE, SLOT, Device
from tests.helpers import free_port

Capture = pytest.CaptureFixture[str]

STATUS: dict[str, Any] = {
    "device_id": DEVICE,
    "fleet": "farm",
    "profile": PROFILE,
    "simulated": True,
    "connected": False,
    "metadata_problem": "metadata expired",
    "slots": [
        {"slot": "idle", "serving": False, "endpoint": "unix:/s", "deployment": None},
        {
            "slot": SLOT,
            "serving": True,
            "model": "linear",
            "version": "1.0",
            "endpoint": "http://127.0.0.1:8080",
            "deployment": {
                "attempt": {"version": "2.0"},
                "state": "failed",
                "reason": "probe_failed",
                "detail": "SQNR 3 dB is below 27 dB",
            },
        },
    ],
}


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path, free_port())


@pytest.fixture
def agent(device: Device) -> Iterator[Device]:
    """An agent's control socket, with fixed answers."""

    def respond(pending: PendingRequest) -> None:
        slot = pending.request.slot
        if pending.request.command == "status":
            pending.answer(STATUS)
        elif slot == SLOT:
            pending.answer({"slot": slot, "returns_to": "1.0"})
        elif slot == "fresh":
            pending.refuse(ConflictError("slot fresh has no earlier bundle to go back to"))
        else:
            pending.refuse(NotFoundError(f'there is no slot "{slot}"'))

    server = ControlServer(device.state / CONTROL_SOCKET, respond)
    server.start()
    yield device
    server.stop()


# enrolment ------------------------------------------------------------------------------------------------


def test_a_request_goes_to_standard_output_or_a_file(device: Device, capsys: Capture) -> None:
    assert run("request", "--config", str(device.config)) == ExitCode.OK
    request = SigningRequest.model_validate_json(capsys.readouterr().out)
    check_signing_request(request)
    output = device.folder / "request.json"
    assert run("request", "-c", str(device.config), "-o", str(output)) == ExitCode.OK
    assert SigningRequest.model_validate_json(output.read_text()) == request
    assert (request.device_id, request.profile, capsys.readouterr().out) == (DEVICE, PROFILE, "")


def accept(device: Device, content: bytes) -> int:
    paper = device.folder / "paper.json"
    paper.write_bytes(content)
    return run("accept", "-c", str(device.config), str(paper))


def test_an_enrolment_is_accepted_once_and_the_same_again(device: Device) -> None:
    (device.state / ENROLMENT_FILE).unlink()
    for _ in range(2):
        assert accept(device, canonical_json(device.enrolment())) == ExitCode.OK
    assert load_identity(device.state).device_id == DEVICE


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"device_id": "pi-2"}, ExitCode.BAD_INPUT, "enrols pi-2, this device is pi-1"),
        ({"fleet": "forest"}, ExitCode.CONFLICT, "enrolled already"),
    ],
)
def test_another_enrolment_is_refused(
    device: Device, capsys: Capture, changes: dict[str, str], code: ExitCode, says: str
) -> None:
    before = (device.state / ENROLMENT_FILE).read_bytes()
    assert accept(device, canonical_json(device.enrolment(**changes))) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and says in captured.err
    assert (device.state / ENROLMENT_FILE).read_bytes() == before


def test_what_is_no_enrolment_is_bad_input(device: Device, capsys: Capture) -> None:
    assert accept(device, b"{}") == ExitCode.BAD_INPUT
    assert "is no enrolment" in capsys.readouterr().err


# asking the agent -----------------------------------------------------------------------------------------


def test_the_status_for_people(agent: Device, capsys: Capture) -> None:
    assert run("status", "-c", str(agent.config)) == ExitCode.OK
    assert capsys.readouterr().out.splitlines() == [
        "pi-1 of farm: generic-x86_64, hardware simulated, not connected",
        "metadata: metadata expired",
        "  idle: serves nothing at unix:/s",
        "  classifier: serves linear 1.0 at http://127.0.0.1:8080; "
        "2.0 is failed (probe_failed: SQNR 3 dB is below 27 dB)",
    ]


def test_the_status_for_programs(agent: Device, capsys: Capture) -> None:
    assert run("status", "-c", str(agent.config), "--json") == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == STATUS


@pytest.mark.parametrize(
    ("slot", "code", "says"),
    [
        (SLOT, ExitCode.OK, "classifier goes back to 1.0"),
        ("toaster", ExitCode.NOT_FOUND, 'error: there is no slot "toaster"'),
        ("fresh", ExitCode.CONFLICT, "error: slot fresh has no earlier bundle"),
    ],
)
def test_a_rollback(agent: Device, capsys: Capture, slot: str, code: ExitCode, says: str) -> None:
    assert run("rollback", slot, "-c", str(agent.config)) == code
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("command", [("status",), ("rollback", SLOT)])
def test_without_an_agent_there_is_nobody_to_ask(
    device: Device, capsys: Capture, command: tuple[str, ...]
) -> None:
    assert run(*command, "-c", str(device.config)) == ExitCode.NOT_FOUND
    assert "packhorse-agent run" in capsys.readouterr().err


def test_an_agent_that_hangs_up_is_the_machines_fault(device: Device, capsys: Capture) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(device.state / CONTROL_SOCKET))
        listener.listen()

        def hang_up() -> None:
            listener.accept()[0].close()

        hanging_up = threading.Thread(target=hang_up)
        hanging_up.start()
        assert run("status", "-c", str(device.config)) == ExitCode.ENVIRONMENT
        hanging_up.join(10)
    assert "no answer" in capsys.readouterr().err


# the rest -------------------------------------------------------------------------------------------------


def test_the_doctor_ends_with_an_error_when_it_finds_a_problem(device: Device, capsys: Capture) -> None:
    assert run("doctor", "-c", str(device.config)) == ExitCode.ENVIRONMENT
    assert "problem  broker: 127.0.0.1:" in capsys.readouterr().out
    assert run("doctor", "-c", str(device.config), "--json") == ExitCode.ENVIRONMENT
    verdicts = {one["what"]: one["verdict"] for one in json.loads(capsys.readouterr().out)}
    assert (verdicts["configuration"], verdicts["broker"]) == ("good", "problem")


def test_the_doctor_is_content_with_a_device_in_order(device: Device) -> None:
    with socket.socket() as broker:
        broker.bind(("127.0.0.1", device.broker_port))
        broker.listen()
        assert run("doctor", "-c", str(device.config)) == ExitCode.OK


def test_detect_proposes_a_profile(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packhorse_agent.profiles.detect_profile", lambda: "raspberry-pi-5")
    assert run("detect") == ExitCode.OK
    assert capsys.readouterr().out == "raspberry-pi-5\n"
    assert run("detect", "--json") == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["profile"] == "raspberry-pi-5"
    monkeypatch.setattr("packhorse_agent.profiles.detect_profile", lambda: None)
    assert run("detect") == ExitCode.NOT_FOUND
    assert "no profile fits" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "request", "doctor"])
def test_a_configuration_that_is_not_there(tmp_path: Path, capsys: Capture, command: str) -> None:
    code = run(command, "-c", str(tmp_path / "none.toml"))
    captured = capsys.readouterr()
    assert code == (ExitCode.ENVIRONMENT if command == "doctor" else ExitCode.USAGE)
    assert "none.toml" in captured.err + captured.out


@pytest.mark.parametrize(
    "arguments", [("fly",), ("status",), ("rollback",), ("accept",), ("status", "--config"), ("run", "--x")]
)
def test_a_wrong_command_line_is_the_users(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.delenv("PACKHORSE_AGENT_CONFIG", raising=False)
    assert run(*arguments) == ExitCode.USAGE
    assert capsys.readouterr().out == ""


def test_the_configuration_may_come_from_the_environment(
    agent: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACKHORSE_AGENT_CONFIG", str(agent.config))
    assert run("status") == ExitCode.OK


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(28, "No space left on device"), ExitCode.ENVIRONMENT),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (KeyError("x"), ExitCode.BUG),
    ],
)
def test_errors_that_nobody_translated(
    device: Device, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: ExitCode
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_ask", fail)
    assert run("status", "-c", str(device.config)) == code


def test_run_becomes_the_supervisor(device: Device) -> None:
    (device.state / ENROLMENT_FILE).unlink()
    command = [sys.executable, "-c", "from packhorse_agent.cli import main; main()"]
    command += ["run", "-c", str(device.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ, check=False)
    assert done.returncode == ExitCode.USAGE
    assert "packhorse-agent request" in done.stderr
