"""The trust set: one retained message that carries the metadata a device needs.

``PT``, version (1 byte), number of entries (1 byte), then for each entry: length of the name (1 byte),
name (ASCII), length of the data (4 bytes, big-endian), data. Names are those of TUF's repository layout
(``3.root.json``, ``timestamp.json``, ``9.snapshot.json``, ``9.rollouts.json``) and, for targets, their path
under ``targets/``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.limits import TRUST_SET_MAX_BYTES, TRUST_SET_MAX_ENTRIES

_HEAD = struct.Struct(">2sBB")
_LENGTH = struct.Struct(">I")
_NAME = re.compile(r"(?=.{1,201}$)[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_VERSION = 1


def encode_trust_set(files: Mapping[str, bytes]) -> bytes:
    """Frame metadata files, sorted by name.

    Raises:
        ValueError: a name that cannot be carried, too many files, or more than 128 KB in all.
    """
    if len(files) > TRUST_SET_MAX_ENTRIES:
        raise ValueError(f"{len(files)} files do not fit a trust set of {TRUST_SET_MAX_ENTRIES}")
    parts = [_HEAD.pack(b"PT", _VERSION, len(files))]
    for name in sorted(files):
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a file in a trust set")
        parts += [bytes([len(name)]), name.encode(), _LENGTH.pack(len(files[name])), files[name]]
    framed = b"".join(parts)
    if len(framed) > TRUST_SET_MAX_BYTES:
        raise ValueError(f"trust set of {len(framed)} bytes is over {TRUST_SET_MAX_BYTES}")
    return framed


def decode_trust_set(framed: bytes) -> dict[str, bytes]:
    """Read a trust set. Law: `decode_trust_set(encode_trust_set(f)) == f`.

    Raises:
        MalformedMessageError: too large, truncated, a bad or repeated name, or bytes left over.
    """
    if len(framed) > TRUST_SET_MAX_BYTES or len(framed) < _HEAD.size:
        raise MalformedMessageError(f"trust set of {len(framed)} bytes")
    kind, version, count = _HEAD.unpack_from(framed)
    if kind != b"PT" or version != _VERSION or count > TRUST_SET_MAX_ENTRIES:
        raise MalformedMessageError(f"not a trust set of version {_VERSION}: {kind!r} {version} {count}")
    files: dict[str, bytes] = {}
    at = _HEAD.size
    for _ in range(count):
        name, data, at = _read_entry(framed, at)
        if name in files:
            raise MalformedMessageError(f"trust set names {name} twice")
        files[name] = data
    if at != len(framed):
        raise MalformedMessageError(f"trust set has {len(framed) - at} bytes left over")
    return files


def _read_entry(framed: bytes, at: int) -> tuple[str, bytes, int]:
    name_end = at + 1 + (framed[at] if at < len(framed) else 0)
    data_start = name_end + _LENGTH.size
    if data_start > len(framed):
        raise MalformedMessageError("trust set is truncated")
    name = framed[at + 1 : name_end].decode("ascii", errors="replace")
    if not _NAME.fullmatch(name):
        raise MalformedMessageError(f"trust set holds the bad name {name!r}")
    data_end = data_start + _LENGTH.unpack_from(framed, name_end)[0]
    if data_end > len(framed):
        raise MalformedMessageError("trust set is truncated")
    return name, framed[data_start:data_end], data_end
