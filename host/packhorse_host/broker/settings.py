"""How the embedded broker is set up, whichever broker it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from packhorse_host.errors import ConfigError

MESSAGE_MAX_BYTES: Final = 256 * 1024
"""A client that sends a larger packet is disconnected; twice what the contract allows."""

_HOST = re.compile(r"[A-Za-z0-9._:%-]+")


class BrokerKind(str, Enum):
    """The brokers that can be embedded."""

    MOSQUITTO = "mosquitto"
    NATS = "nats"


@dataclass(frozen=True)
class BrokerTls:
    """TLS on the broker's port; PEM files.

    Raises:
        ConfigError: client certificates are required, but nothing is named to check them with.
    """

    certificate_file: Path
    key_file: Path
    ca_file: Path | None = None
    """Who signs client certificates."""
    require_client_certificate: bool = False
    """In addition to the password."""

    def __post_init__(self) -> None:
        if self.require_client_certificate and self.ca_file is None:
            raise ConfigError("requiring client certificates takes a ca_file to check them with")


@dataclass(frozen=True)
class BrokerSettings:
    """Where the broker keeps its files and where it listens.

    Raises:
        ConfigError: the address or the port cannot be one.
    """

    folder: Path
    """Configuration, state and log; made with mode 0700 when absent."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one, and keeps it while this process lives."""
    tls: BrokerTls | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"a port is a number from 0 to 65535, not {self.port}")
        if not _HOST.fullmatch(self.host):
            raise ConfigError(f"not an address to listen on: {self.host!r}")


@dataclass(frozen=True)
class Endpoint:
    """Where a client connects to."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
