"""What the supervisor and its verifier say to each other: one call, one answer, each a frame of JSON."""

from __future__ import annotations

import socket
from datetime import datetime
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from packhorse_agent.contract.base import WireDocument
from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.rollout import RolloutsDocument

FRAME_MAX_BYTES: Final = 16 * 1024**2
"""A trust set and the metadata that was pulled for it take far less."""
_LENGTH_BYTES: Final = 4


class _Message(WireDocument):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Setup(_Message):
    """Said first: whose trust it is."""

    folder: Path
    root_metadata: bytes
    fleet: str


class Call(_Message):
    """One question to the keeper."""

    method: Literal["offer", "current", "tags", "resolve"]
    now: datetime
    argument: str = ""
    """A device for `tags`, a target path for `resolve`."""
    files: dict[str, bytes] = Field(default_factory=dict)
    """The trust set, for `offer`."""
    blobs: dict[str, bytes] = Field(default_factory=dict)
    """Metadata that was pulled, by SHA-256."""


class Viewed(_Message):
    """A view was made."""

    rollouts: RolloutsDocument
    version: int
    expires: datetime
    issued_at: datetime
    expired: bool


class Needed(_Message):
    """`packhorse_agent.trust.ports.NeedsBlobs`."""

    blobs: tuple[tuple[str, int, tuple[str, ...]], ...]
    reason: str


class Failed(_Message):
    """An error: the name of its class, and its text."""

    kind: str
    text: str


class Answer(_Message):
    """What came of a call; nothing set: there is nothing (no view, no target)."""

    view: Viewed | None = None
    needed: Needed | None = None
    tags: tuple[str, ...] | None = None
    target: tuple[str, int, str] | None = None
    """SHA-256, size in bytes, minimum version."""
    failed: Failed | None = None


M = TypeVar("M", bound=_Message)


def send(stream: socket.socket, message: _Message) -> None:
    """Write one frame: the length as 4 bytes, big endian, then JSON."""
    data = message.model_dump_json().encode()
    stream.sendall(len(data).to_bytes(_LENGTH_BYTES, "big") + data)


def receive(stream: socket.socket, kind: type[M]) -> M | None:
    """Read one frame; None at the end of the stream.

    Raises:
        MalformedMessageError: longer than `FRAME_MAX_BYTES`, or not the message that is expected.
    """
    head = _read(stream, _LENGTH_BYTES)
    if head is None:
        return None
    length = int.from_bytes(head, "big")
    if length > FRAME_MAX_BYTES:
        raise MalformedMessageError(f"a frame of {length} bytes, at most {FRAME_MAX_BYTES} may be")
    data = _read(stream, length)
    if data is None:
        return None
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise MalformedMessageError(f"not a {kind.__name__}: {error}") from error


def _read(stream: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            return None
        data += part
    return bytes(data)
