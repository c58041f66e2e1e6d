"""What the doctor finds: each thing that can be wrong, and what to do about it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.control import CONTROL_SOCKET, ControlServer
from packhorse_agent.runtime.installed import installed_runtimes
from packhorse_agent.supervisor import doctor
from packhorse_agent.supervisor.doctor import Check, examine
from packhorse_agent.supervisor.identity import ENROLMENT_FILE, KEY_FILE
from tests.agent.agents import SLOT, Device
from tests.helpers import free_port

PORT = f"port of slot {SLOT}"


def find(checks: list[Check], what: str) -> Check:
    return next(check for check in checks if check.what == what)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path, free_port())


def test_a_device_in_order_has_no_problem(device: Device) -> None:
    with socket.socket() as broker:
        broker.bind(("127.0.0.1", device.broker_port))
        broker.listen()
        checks = examine(device.config)
    assert [check for check in checks if check.verdict == "problem"] == []
    assert find(checks, "enrolment").detail == "pi-1 of farm"
    assert find(checks, "runtime onnxruntime").detail == installed_runtimes()["onnxruntime"]
    assert {"configuration", "profile", "storage", "broker"} <= {check.what for check in checks}


def test_looking_changes_nothing(device: Device) -> None:
    before = sorted(device.folder.rglob("*"))
    examine(device.config)
    assert sorted(device.folder.rglob("*")) == before


def unenrolled(device: Device) -> None:
    (device.state / ENROLMENT_FILE).unlink()


def damaged(device: Device) -> None:
    (device.state / ENROLMENT_FILE).write_text("{")


def without_key(device: Device) -> None:
    (device.state / KEY_FILE).unlink()


def without_configuration(device: Device) -> None:
    device.config.unlink()


def misspelt(device: Device) -> None:
    device.config.write_text('state_folder = "state"\nprofil = "x"\n')


def on_another_machine(device: Device) -> None:
    text = device.config.read_text().replace("generic-x86_64", "jetson-orin-nano")
    device.config.write_text(text.replace("simulate_hardware = true\n", ""))


@pytest.mark.parametrize(
    ("damage", "what", "advice"),
    [
        (unenrolled, "enrolment", "packhorse-agent request"),
        (damaged, "enrolment", "is no enrolment"),
        (without_key, "enrolment", "Restore it"),
        (without_configuration, "configuration", "agent.toml"),
        (misspelt, "configuration", "profile"),
        (on_another_machine, "profile", "jetson-orin-nano is for"),
        (lambda device: None, "broker", "packhorse serve"),
    ],
)
def test_a_problem_is_named_with_its_cure(
    device: Device, damage: Callable[[Device], None], what: str, advice: str
) -> None:
    damage(device)
    check = find(examine(device.config), what)
    assert check.verdict == "problem"
    assert advice in check.detail


def on_port(device: Device, port: int) -> None:
    device.config.write_text(device.config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))


def test_a_port_that_is_chosen_at_the_start_is_good(device: Device) -> None:
    assert find(examine(device.config), PORT).verdict == "good"


def test_a_free_port_is_good_and_stays_free(device: Device) -> None:
    port = free_port()
    on_port(device, port)
    assert find(examine(device.config), PORT) == Check(
        what=PORT, verdict="good", detail=f"127.0.0.1:{port} is free"
    )
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))


def test_a_taken_port_is_a_problem_and_says_whose_it_is(device: Device) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        on_port(device, port)
        check = find(examine(device.config), PORT)
    assert check.verdict == "problem"
    assert f"another program listens on 127.0.0.1:{port}; stop it, or choose another port" in check.detail
    assert f"(process {os.getpid()})" in check.detail


def test_where_nobody_may_say_who_holds_a_port_it_is_a_problem_all_the_same(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_kind: str) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refuse)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        on_port(device, other.getsockname()[1])
        check = find(examine(device.config), PORT)
    assert check.verdict == "problem"
    assert "process" not in check.detail


@pytest.mark.parametrize("moved", [False, True])
def test_the_port_of_the_agent_that_runs_is_as_it_should_be(device: Device, moved: bool) -> None:
    """Unless it listens elsewhere: then another program has the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        on_port(device, port)
        endpoint = f"http://127.0.0.1:{port - 1 if moved else port}"
        slots = [{"slot": SLOT, "endpoint": endpoint}, {"slot": "other", "endpoint": "unix:/x.sock"}]
        agent = ControlServer(device.state / CONTROL_SOCKET, lambda pending: pending.answer({"slots": slots}))
        agent.start()
        try:
            check = find(examine(device.config), PORT)
        finally:
            agent.stop()
    assert check.verdict == ("problem" if moved else "good")
    assert moved or "this device's agent" in check.detail


@pytest.mark.parametrize(
    "answer", [{}, {"slots": 7}, {"slots": [{}]}, {"slots": [{"slot": "a", "endpoint": 5}]}]
)
def test_an_agent_that_answers_strangely_hides_no_taken_port(device: Device, answer: dict[str, Any]) -> None:
    on_port(device, free_port())
    agent = ControlServer(device.state / CONTROL_SOCKET, lambda pending: pending.answer(answer))
    agent.start()
    try:
        assert "is free" in find(examine(device.config), PORT).detail
    finally:
        agent.stop()


def test_simulated_hardware_is_noted(device: Device) -> None:
    device.config.write_text(device.config.read_text().replace("generic-x86_64", "jetson-orin-nano"))
    check = find(examine(device.config), "profile")
    assert (check.verdict, "simulate_hardware" in check.detail) == ("note", True)


@pytest.mark.parametrize(
    ("runtimes", "says"), [({}, "packhorse[onnxruntime]"), ({"onnxruntime": "1.2"}, "1.2 is below 1.20")]
)
def test_no_usable_runtime_is_a_problem(
    device: Device, monkeypatch: pytest.MonkeyPatch, runtimes: dict[str, str], says: str
) -> None:
    monkeypatch.setattr(doctor, "installed_runtimes", lambda: runtimes)
    checks = examine(device.config)
    assert find(checks, "runtimes").verdict == "problem"
    assert says in find(checks, "runtime onnxruntime").detail


def test_a_state_folder_that_is_not_there_yet_is_a_note(device: Device, tmp_path: Path) -> None:
    device.state.rename(tmp_path / "elsewhere")
    checks = examine(device.config)
    assert find(checks, "storage").verdict == "note"
    assert find(checks, "enrolment").verdict == "problem"


def test_the_configuration_decides_where_the_broker_is(device: Device) -> None:
    enrolment = device.enrolment(broker=device.enrolment().broker.model_copy(update={"port": 1}))
    (device.state / ENROLMENT_FILE).write_bytes(canonical_json(enrolment))
    device.config.write_text(device.config.read_text() + f"[mqtt]\nport = {device.broker_port}\n")
    assert f":{device.broker_port}" in find(examine(device.config), "broker").detail
