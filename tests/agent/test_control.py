"""The control socket: what it answers, what it refuses, and who may ask."""

from __future__ import annotations

import json
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from packhorse_agent import control
from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.control import CLIENTS_MAX, ControlRequest, ControlServer, PendingRequest, ask
from packhorse_agent.errors import (
    AgentError,
    BadInputError,
    ConfigError,
    ConflictError,
    EnvironmentFaultError,
    NotFoundError,
    UntrustedError,
)
from tests.helpers import wait_until

REFUSALS = (ConfigError, BadInputError, UntrustedError, EnvironmentFaultError, ConflictError, NotFoundError)


def respond(pending: PendingRequest) -> None:
    """As the supervisor does, without one."""
    for kind in REFUSALS:
        if pending.request.slot == kind.__name__.lower():
            pending.refuse(kind(f"no: {kind.__name__}"))
            return
    pending.answer({"command": pending.request.command, "slot": pending.request.slot})


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    server = ControlServer(tmp_path / "c.sock", respond)
    server.start()
    yield tmp_path / "c.sock"
    server.stop()


def talk(path: Path, content: bytes) -> bytes:
    """Say bytes, say that nothing more comes, and hear all of the answer."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        try:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other end has heard enough
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
        except ConnectionResetError:
            pass
        return received


def test_a_request_is_answered(path: Path) -> None:
    assert ask(path, ControlRequest(command="rollback", slot="a")) == {"command": "rollback", "slot": "a"}


def test_only_the_owner_may_ask(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_keeps_its_kind_and_so_its_exit_code(path: Path, kind: type[AgentError]) -> None:
    with pytest.raises(kind, match=f"no: {kind.__name__}") as caught:
        ask(path, ControlRequest(command="rollback", slot=kind.__name__.lower()))
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\xff\xfe\0\n",
        b"null\n",
        b"[]\n",
        b'{"command": "reboot"}\n',
        b'{"command": "status", "extra": 1}\n',
        b'{"command": "status"',
        b"[" * 70_000 + b"\n",
        b'{"command": "status", "slot": "' + b"x" * 200_000 + b'"}\n',
    ],
)
def test_nonsense_is_refused_and_the_next_request_answered(path: Path, content: bytes) -> None:
    answer = talk(path, content)
    if answer:  # a client that sends too much may be cut off instead
        assert json.loads(answer)["exit_code"] == ExitCode.BAD_INPUT
    assert ask(path, ControlRequest(command="status"))["command"] == "status"


def test_a_client_that_leaves_at_once_harms_nobody(path: Path) -> None:
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
    assert ask(path, ControlRequest(command="status"))["command"] == "status"


@contextmanager
def silent_clients(path: Path, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(count)]
        for client in clients:
            client.connect(str(path))
        yield clients


def test_a_client_that_says_nothing_delays_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_TIMEOUT_S", 60.0)
    with silent_clients(path, CLIENTS_MAX - 1):
        begun_s = time.monotonic()
        assert ask(path, ControlRequest(command="status"))["command"] == "status"
        assert time.monotonic() - begun_s < 10


def test_more_clients_than_there_are_places_are_told_so_and_places_come_free(path: Path) -> None:
    with silent_clients(path, CLIENTS_MAX), pytest.raises(ConflictError, match="try again"):
        ask(path, ControlRequest(command="status"))

    def answered() -> bool:
        try:
            return bool(ask(path, ControlRequest(command="status")))
        except ConflictError:
            return False

    wait_until(answered)


def test_a_client_that_sends_a_byte_now_and_then_is_cut_off(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_TIMEOUT_S", 0.2)
    with silent_clients(path, 1) as [client]:
        client.settimeout(20)

        def cut_off() -> bool:
            try:
                client.send(b" ")
            except OSError:
                return True
            return False

        wait_until(cut_off)


def test_without_an_agent_the_advice_is_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="packhorse-agent run"):
        ask(tmp_path / "c.sock", ControlRequest(command="status"))


def test_a_socket_that_a_killed_agent_left_is_no_agent(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "c.sock"))
    stale.close()
    with pytest.raises(NotFoundError):
        ask(tmp_path / "c.sock", ControlRequest(command="status"))
    server = ControlServer(tmp_path / "c.sock", respond)
    server.start()
    assert ask(tmp_path / "c.sock", ControlRequest(command="status"))
    server.stop()


@pytest.mark.parametrize("answer", [b"", b"\n", b"nonsense\n", b"[]\n", b"7\n"])
def test_an_agent_that_answers_nonsense_is_said_so(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "c.sock"))
        listener.listen()

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        speaker = threading.Thread(target=speak)
        speaker.start()
        with pytest.raises(EnvironmentFaultError, match="no answer"):
            ask(tmp_path / "c.sock", ControlRequest(command="status"))
        speaker.join(10)


def test_a_path_that_no_socket_can_have_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shorter state folder"):
        ControlServer(tmp_path / ("x" * 100), respond)


def test_a_folder_that_is_not_there_is_the_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFaultError, match="cannot listen"):
        ControlServer(tmp_path / "none" / "c.sock", respond)


def test_stopping_twice_and_before_the_start_is_allowed(tmp_path: Path) -> None:
    server = ControlServer(tmp_path / "c.sock", respond)
    server.stop()
    server.stop()
    assert not (tmp_path / "c.sock").exists()
