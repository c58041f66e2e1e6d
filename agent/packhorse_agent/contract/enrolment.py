"""Enrolment: the device's signing request, and what it gets back."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from packhorse_agent.contract.base import Name, WireDocument

SIGNING_REQUEST_CONTEXT = b"packhorse-enrolment-v1\0"

PublicKeyHex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A raw Ed25519 public key."""


class SigningRequest(WireDocument):
    """A device asks to be enrolled with the key that it made; signed with that key as proof."""

    format: Literal[1] = 1
    device_id: Name
    profile: Name
    public_key: PublicKeyHex
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    """Over `request_message(...)`."""


class BrokerAddress(WireDocument):
    """Where and how to connect."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    username: str
    password: str
    tls_ca_pem: str | None = None
    """Given: connect with TLS and trust this authority."""


class Enrolment(WireDocument):
    """What a device needs to join a fleet; secret, since it holds the broker's password."""

    format: Literal[1] = 1
    fleet: Name
    device_id: Name
    broker: BrokerAddress
    public_key: PublicKeyHex | None = None
    """The key that was enrolled; None: an older host wrote it."""
    root_metadata: str
    """TUF root metadata (JSON text), the device's first trust anchor."""


def request_message(device_id: str, profile: str, public_key: str) -> bytes:
    """The bytes that a signing request's signature covers."""
    return SIGNING_REQUEST_CONTEXT + "\0".join((device_id, profile, public_key)).encode()
