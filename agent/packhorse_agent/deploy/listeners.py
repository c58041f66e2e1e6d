"""A slot's listening sockets, held by the supervisor and lent to one worker after the other."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from packhorse_agent.errors import ConfigError, EnvironmentFaultError

SOCKET_MODE: Final = 0o660
"""Of the Unix socket: the owner and the group may ask."""

SOCKET_PATH_MAX_BYTES: Final = 107
"""Longest path that the address of a Unix socket holds (`sun_path`, unix(7))."""

_BACKLOG: Final = 256


class PortTakenError(EnvironmentFaultError):
    """Another process listens there."""


class SlotListeners:
    """The Unix socket of a slot and, when an address is given, its TCP port.

    Raises:
        PortTakenError: another process has the TCP port.
        ConfigError: the path is too long, or the address is not one of this machine.
        EnvironmentFaultError: the socket cannot be made there.
    """

    def __init__(self, slot: str, socket_path: Path, http_host_port: tuple[str, int] | None) -> None:
        self.slot = slot
        self._path = socket_path
        self._unix = _listen_unix(slot, socket_path)
        try:
            self._tcp = listen_tcp(slot, *http_host_port) if http_host_port else None
        except BaseException:
            self._close_unix()
            raise

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """What a worker accepts on."""
        return (self._unix,) if self._tcp is None else (self._unix, self._tcp)

    @property
    def endpoint(self) -> str:
        """URL of the TCP port, or `unix:` and the path of the socket."""
        if self._tcp is None:
            return f"unix:{self._path}"
        host, port = self._tcp.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self) -> None:
        """Stop listening; the socket's file goes too. May be called again."""
        self._close_unix()
        if self._tcp is not None:
            self._tcp.close()

    def _close_unix(self) -> None:
        if self._unix.fileno() >= 0:
            self._path.unlink(missing_ok=True)
        self._unix.close()


def _listen_unix(slot: str, path: Path) -> socket.socket:
    if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
        raise ConfigError(
            f"slot {slot}: {path} is too long for a Unix socket ({SOCKET_PATH_MAX_BYTES} bytes at most): "
            "choose a shorter state folder"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        # the file gets the mode of the socket less the umask: never wider than it should be, not for a moment
        os.fchmod(listener.fileno(), SOCKET_MODE)
        listener.bind(str(path))
        path.chmod(SOCKET_MODE)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise EnvironmentFaultError(f"slot {slot}: cannot listen on {path}: {error.strerror}") from error
    return listener


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "something else than a socket is there")
    path.unlink()


def listen_tcp(slot: str, host: str, port: int) -> socket.socket:
    """Listen on a TCP port; 0 is any free one.

    Raises:
        PortTakenError, ConfigError, EnvironmentFaultError: see `SlotListeners`.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"slot {slot}: {host} is not an address: {error.strerror}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"slot {slot}: another program listens on {host}:{port}; stop it, or choose another port"
            ) from error
        raise EnvironmentFaultError(
            f"slot {slot}: cannot listen on {host}:{port}: {error.strerror}"
        ) from error
    return listener
