"""The control socket: how `packhorse-agent status` and `rollback` talk to the running supervisor.

A Unix stream socket, mode 0600, in the state folder. One request and one answer a connection, each one
line of JSON of at most 64 KiB. Clients are served side by side, `CLIENTS_MAX` at a time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.errors import (
    AgentError,
    BadInputError,
    ConfigError,
    ConflictError,
    EnvironmentFaultError,
    NotFoundError,
    UntrustedError,
)

CONTROL_SOCKET = "control.sock"

CLIENTS_MAX = 16
"""Connections that may be open at a time; the next one is told to try again."""

_MAX_BYTES = 64 * 1024
_TIMEOUT_S = 10.0
_ACCEPT_PAUSE_S = 1.0
_BACKLOG = 64
_MODE = 0o600
_PATH_MAX_BYTES = 107  # `sun_path`, unix(7)
_REFUSALS: dict[int, type[AgentError]] = {
    kind.exit_code: kind
    for kind in (
        ConfigError,
        BadInputError,
        UntrustedError,
        EnvironmentFaultError,
        ConflictError,
        NotFoundError,
    )
}

_log = logging.getLogger(__name__)


class ControlRequest(BaseModel):
    """What a person asks of the running agent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Literal["status", "rollback"]
    slot: str = ""


@dataclass(frozen=True)
class PendingRequest:
    """A request with the way to answer it; `answer` may be called once, from any thread."""

    request: ControlRequest
    answer: Callable[[dict[str, Any]], None]

    def refuse(self, error: AgentError) -> None:
        """Answer with an error: `ask` raises it again at the other end."""
        self.answer({"error": str(error), "exit_code": int(error.exit_code)})


class ControlServer:
    """Takes requests on its own threads and posts them; the answer comes from the main thread.

    Raises:
        ConfigError: the path is too long for a socket.
        EnvironmentFaultError: the socket cannot be made there.
    """

    def __init__(self, path: Path, post: Callable[[PendingRequest], None]) -> None:
        self._path = path
        self._post = post
        self._socket = _listen(path)
        self._stopping = False
        self._free = threading.Semaphore(CLIENTS_MAX)
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def stop(self) -> None:
        """Close the socket and remove it."""
        self._stopping = True
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread out of `accept`
        self._socket.close()

    def _run(self) -> None:
        while not self._stopping:
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if not self._stopping:
                    _log.error("no control request can be taken: %s", error)
                    time.sleep(_ACCEPT_PAUSE_S)
                continue
            if self._free.acquire(blocking=False):
                self._begin(connection)
            else:
                text = f"{CLIENTS_MAX} others ask already; try again"
                _answer(connection, {"error": text, "exit_code": int(ExitCode.CONFLICT)})

    def _begin(self, connection: socket.socket) -> None:
        try:
            threading.Thread(target=self._receive, args=(connection,), daemon=True).start()
        except RuntimeError as error:  # no thread can be had
            text = f"the agent cannot take the request: {error}"
            self._finish(connection, {"error": text, "exit_code": int(ExitCode.ENVIRONMENT)})

    def _receive(self, connection: socket.socket) -> None:
        try:
            request = ControlRequest.model_validate_json(_read_line(connection))
        except (OSError, ValidationError) as error:
            body = {"error": f"bad request: {error}", "exit_code": int(ExitCode.BAD_INPUT)}
            self._finish(connection, body)
            return
        self._post(PendingRequest(request, lambda body: self._finish(connection, body)))

    def _finish(self, connection: socket.socket, body: dict[str, Any]) -> None:
        _answer(connection, body)
        self._free.release()


def ask(path: Path, request: ControlRequest) -> dict[str, Any]:
    """Send a request to the running agent and wait for its answer.

    Raises:
        NotFoundError: no agent runs on this state folder.
        EnvironmentFaultError: there is one, but it cannot be asked, or gives no answer.
        AgentError: the agent refused the request; kind and text are its own.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.connect(str(path))
            connection.sendall(request.model_dump_json().encode() + b"\n")
            answer = json.loads(_read_line(connection))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotFoundError(f"no agent answers at {path}; is `packhorse-agent run` up?") from error
        except (OSError, ValueError) as error:
            raise EnvironmentFaultError(f"the agent at {path} gives no answer: {error}") from error
    if not isinstance(answer, dict):
        raise EnvironmentFaultError(f"the agent at {path} gives no answer that can be read")
    if "error" in answer:
        raise _REFUSALS.get(answer.get("exit_code", 0), EnvironmentFaultError)(str(answer["error"]))
    return answer


def _listen(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _PATH_MAX_BYTES:
        raise ConfigError(f"{path} is too long for a Unix socket: choose a shorter state folder")
    listener = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        os.fchmod(listener.fileno(), _MODE)  # the file is never open to others, not for a moment
        listener.bind(str(path))
        path.chmod(_MODE)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise EnvironmentFaultError(f"cannot listen on {path}: {error.strerror}") from error
    return listener


def _read_line(connection: socket.socket) -> bytes:
    """One line, all of it within the time-out: a byte now and then holds no place for ever."""
    received, end_s = bytearray(), time.monotonic() + _TIMEOUT_S
    while not received.endswith(b"\n"):
        connection.settimeout(max(end_s - time.monotonic(), 0.001))
        part = connection.recv(4096)
        if not part or len(received) > _MAX_BYTES:
            break
        received += part
    return bytes(received)


def _answer(connection: socket.socket, body: dict[str, Any]) -> None:
    with connection:
        try:
            connection.settimeout(_TIMEOUT_S)
            connection.sendall(json.dumps(body).encode() + b"\n")
        except OSError:
            return
