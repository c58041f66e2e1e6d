"""Ports: finding a free one, seeing that one is taken, and whose it is."""

from __future__ import annotations

import errno
import socket

import psutil

from packhorse_host.broker.errors import BrokerStartError, PortTakenError


def free_port(host: str) -> int:
    """A port that nobody listens on now.

    Raises:
        BrokerStartError: this machine cannot listen on the address.
    """
    return _bind(host, 0)


def check_port(host: str, port: int) -> None:
    """See that a port could be listened on now.

    Raises:
        PortTakenError: somebody does already.
        BrokerStartError: this machine cannot listen on the address, or we may not.
    """
    _bind(host, port)


def listens(pid: int, port: int) -> bool:
    """Whether this very process listens on a TCP port; another one that does is no answer."""
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(
        one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port for one in connections
    )


def _bind(host: str, port: int) -> int:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            bound: int = probe.getsockname()[1]
            return bound
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(host, port) from error
        raise BrokerStartError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
