"""What a link is told, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class TlsSettings:
    """TLS towards the broker; PEM files."""

    ca_file: Path | None = None
    """None: the system's authorities."""
    certificate_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True)
class Subscription:
    """A topic filter and its quality of service."""

    topic: str
    qos: Literal[0, 1]


@dataclass(frozen=True)
class Retained:
    """A retained message at QoS 1: the last will, or what is said on every connection."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class LinkSettings:
    """One connection to a broker."""

    host: str
    port: int
    client_id: str
    username: str
    password: str
    subscriptions: tuple[Subscription, ...]
    tls: TlsSettings | None = None
    will: Retained | None = None
    birth: Retained | None = None
    keepalive_s: int = 30
    connect_timeout_s: float = 10.0


@dataclass(frozen=True)
class LinkUp:
    """Connected, and all subscriptions are made."""

    protocol: Literal["5", "3.1.1"]


@dataclass(frozen=True)
class LinkDown:
    """Not connected (any more); the link tries again by itself."""

    reason: str
    retry_in_s: float


@dataclass(frozen=True)
class Message:
    """A message that came in."""

    topic: str
    payload: bytes


LinkEvent = LinkUp | LinkDown | Message
