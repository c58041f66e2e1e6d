"""The worker's end of the control socket."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from pydantic import BaseModel

from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.serve.protocol import LISTENERS_MAX, Command, LineBuffer, encode_line, parse_command

_log = logging.getLogger(__name__)

_READ_BYTES: Final = 64 * 1024


class ControlChannel:
    """Commands and the sockets beside them in, replies out."""

    def __init__(self, control: socket.socket) -> None:
        self._socket = control
        self._lines = LineBuffer()
        self._fds: deque[int] = deque()

    def start(self, on_command: Callable[[Command], None], on_end: Callable[[], None]) -> None:
        """Call `on_command` for each command, and `on_end` when the supervisor is gone."""
        self._on_command, self._on_end = on_command, on_end
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def send(self, reply: BaseModel) -> None:
        """Answer; a supervisor that is gone gets nothing."""
        try:
            self._socket.sendall(encode_line(reply))
        except (BrokenPipeError, ConnectionResetError):
            self._on_end()

    def take_sockets(self, count: int) -> list[socket.socket]:
        """The sockets that came with a command, oldest first.

        Raises:
            LookupError: fewer came.
        """
        if len(self._fds) < count:
            raise LookupError(f"{count} sockets announced, {len(self._fds)} came")
        return [socket.socket(fileno=self._fds.popleft()) for _ in range(count)]

    def _read(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, _READ_BYTES, LISTENERS_MAX)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionResetError:
            data, fds = b"", []
        for fd in fds:
            os.set_inheritable(fd, False)
        self._fds.extend(fds)
        if not data:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._on_end()
            return
        try:
            for line in self._lines.feed(data):
                self._on_command(parse_command(line))
        except MalformedMessageError as error:
            _log.error("%s", error)
            self._on_end()
