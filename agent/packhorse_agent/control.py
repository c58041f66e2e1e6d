"""The control socket: how `packhorse-agent status` and `rollback` talk to the running supervisor.

A Unix stream socket, mode 0600, in the state folder. One request and one answer a connection, each one
line of JSON of at most 64 KiB.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from packhorse_agent.errors import BadInputError, NotFoundError

CONTROL_SOCKET = "control.sock"
_MAX_BYTES = 64 * 1024
_TIMEOUT_S = 10.0


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


class ControlServer:
    """Accepts requests on its own thread and posts them; the answer comes from the main thread."""

    def __init__(self, path: Path, post: Callable[[PendingRequest], None]) -> None:
        self._path = path
        self._post = post
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        path.chmod(0o600)
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def stop(self) -> None:
        """Close the socket and remove it."""
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            connection.settimeout(_TIMEOUT_S)
            try:
                request = ControlRequest.model_validate_json(_read_line(connection))
            except (OSError, ValidationError) as error:
                _answer(connection, {"error": f"bad request: {error}"})
                continue
            self._post(PendingRequest(request, lambda body, to=connection: _answer(to, body)))  # type: ignore[misc]


def ask(path: Path, request: ControlRequest) -> dict[str, Any]:
    """Send a request to the running agent and wait for its answer.

    Raises:
        NotFoundError: no agent runs on this state folder.
        BadInputError: the agent refused the request; the text is its own.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.connect(str(path))
            connection.sendall(request.model_dump_json().encode() + b"\n")
            answer = json.loads(_read_line(connection))
        except (OSError, ValueError) as error:
            raise NotFoundError(f"no agent answers at {path}; is `packhorse-agent run` up?") from error
    if not isinstance(answer, dict):
        raise BadInputError("the agent's answer is no object")
    if "error" in answer:
        raise BadInputError(str(answer["error"]))
    return answer


def _read_line(connection: socket.socket) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        part = connection.recv(4096)
        if not part or len(received) > _MAX_BYTES:
            break
        received += part
    return bytes(received)


def _answer(connection: socket.socket, body: dict[str, Any]) -> None:
    with connection:
        try:
            connection.sendall(json.dumps(body).encode() + b"\n")
        except OSError:
            return
