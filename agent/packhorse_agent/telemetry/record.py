"""One spooled report as bytes: `PHS1`, CRC-32, weight, time, then the report as canonical JSON.

The CRC covers all that follows it, so that bit rot is told from content. All numbers big-endian.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

MAGIC = b"PHS1"
_HEADER = struct.Struct(">4sI")
_FACTS = struct.Struct(">IQ")
OVERHEAD_BYTES = _HEADER.size + _FACTS.size


@dataclass(frozen=True)
class Record:
    """A report that waits. Law: `decode_record(encode_record(r)) == r`."""

    weight: int
    """Windows that are lost when this is given up: its own, and those whose loss it reports."""
    written_unix_s: int
    content: bytes


def encode_record(record: Record) -> bytes:
    """Bytes for the disk."""
    rest = _FACTS.pack(record.weight, record.written_unix_s) + record.content
    return _HEADER.pack(MAGIC, zlib.crc32(rest)) + rest


def decode_record(data: bytes) -> Record | None:
    """Read a record; None when it is damaged."""
    if len(data) < OVERHEAD_BYTES:
        return None
    magic, crc = _HEADER.unpack_from(data)
    rest = data[_HEADER.size :]
    if magic != MAGIC or zlib.crc32(rest) != crc:
        return None
    weight, written_unix_s = _FACTS.unpack_from(rest)
    return Record(weight, written_unix_s, rest[_FACTS.size :])
