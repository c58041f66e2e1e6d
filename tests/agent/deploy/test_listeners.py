"""A slot's listening sockets."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from packhorse_agent.deploy.listeners import PortTakenError, SlotListeners
from packhorse_agent.errors import ConfigError, EnvironmentFaultError
from tests.helpers import free_port


def test_the_unix_socket_is_for_owner_and_group_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    before = os.umask(0o077)
    try:
        listeners = SlotListeners("s", path, None)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert listeners.endpoint == f"unix:{path}"
    assert len(listeners.sockets) == 1
    listeners.close()
    listeners.close()
    assert not path.exists()


@pytest.mark.parametrize(("host", "start"), [("127.0.0.1", "http://127.0.0.1:"), ("localhost", "http://")])
def test_a_free_port_is_taken_and_told(host: str, start: str, tmp_path: Path) -> None:
    listeners = SlotListeners("s", tmp_path / "s.sock", (host, 0))
    assert listeners.endpoint.startswith(start)
    with socket.create_connection(("127.0.0.1", int(listeners.endpoint.rpartition(":")[2])), timeout=5):
        pass
    listeners.close()


def test_a_port_can_be_taken_again_at_once(tmp_path: Path) -> None:
    port = free_port()
    for _ in range(2):
        listeners = SlotListeners("s", tmp_path / "s.sock", ("127.0.0.1", port))
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        listeners.close()


def test_a_port_that_is_taken_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"slot s: another program listens on 127.0.0.1:{port}"):
            SlotListeners("s", tmp_path / "s.sock", ("127.0.0.1", port))
    assert list(tmp_path.iterdir()) == []


def test_a_socket_left_by_a_kill_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    listeners = SlotListeners("s", path, None)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listeners.close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    path.write_text("mine")
    with pytest.raises(EnvironmentFaultError):
        SlotListeners("s", path, None)
    assert path.read_text() == "mine"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFaultError, match="No such file"):
        SlotListeners("s", tmp_path / "none" / "s.sock", None)


def test_a_path_too_long_for_a_socket_says_so(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with pytest.raises(ConfigError, match="too long"):
        SlotListeners("s", folder / "s.sock", None)


def test_a_name_that_is_no_address_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not an address"):
        SlotListeners("s", tmp_path / "s.sock", ("300.1.1.1", 0))
    assert list(tmp_path.iterdir()) == []
