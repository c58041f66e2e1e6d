"""Chunks of a blob: their index, the frames that carry them and the requests for them.

A blob is named by its SHA-256. It is cut into chunks of 64 KiB. A blob of more than one chunk has an
index: the SHA-256 of each raw chunk, 32 bytes each, in order. An index larger than one chunk is itself a
blob with an index, up to a level that is one chunk; so every chunk is checked as it arrives.

All integers are big-endian. A frame on a data or blob topic starts with a two-byte kind:
``PC`` chunk, ``PR`` reply; a request is ``PW``.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES, WANT_MAX_RANGES

DIGEST_BYTES = 32
FRAME_VERSION = 1
_CHUNK_HEAD = struct.Struct(">2sBBII32s")
_REPLY_HEAD = struct.Struct(">2sBBI32s")
_WANT_HEAD = struct.Struct(">2sBBIHH32s")
_RANGE = struct.Struct(">II")
_WORTH_NUMERATOR, _WORTH_DENOMINATOR = 15, 16
_SAMPLE_PARTS, _SAMPLE_PART_BYTES = 4, 512


class Codec(IntEnum):
    """How a chunk's payload is compressed."""

    NONE = 0
    DEFLATE = 1


class ReplyKind(IntEnum):
    """Why no chunks come."""

    NOT_FOUND = 1
    """The host has no such blob: do not ask again before new metadata."""
    BUSY = 2
    """Ask again after `retry_after_ms`."""


class WantFlag(IntEnum):
    """Bits of a request."""

    MERGED = 1
    """The asker listens to the blob's own topic too."""


@dataclass(frozen=True)
class Chunk:
    """One raw chunk of a blob; `raw` is not yet checked against any index."""

    blob_sha256: str
    index: int
    raw: bytes


@dataclass(frozen=True)
class Reply:
    """The host's word on a request that it does not serve now."""

    blob_sha256: str
    kind: ReplyKind
    retry_after_ms: int = 0


@dataclass(frozen=True)
class ChunkRange:
    """Chunks `start` to `start + count - 1`."""

    start: int
    count: int


@dataclass(frozen=True)
class Want:
    """A request for chunks of one blob: at most `window` of those named, in order."""

    blob_sha256: str
    request_id: int
    window: int
    ranges: tuple[ChunkRange, ...]
    merged: bool = True


def chunk_count(size_bytes: int) -> int:
    """How many chunks a blob has; an empty blob has none."""
    return -(-size_bytes // CHUNK_SIZE_BYTES)


def chunk_size(size_bytes: int, index: int) -> int:
    """Raw size of chunk `index` of a blob in bytes."""
    return min(CHUNK_SIZE_BYTES, size_bytes - index * CHUNK_SIZE_BYTES)


def index_sizes(size_bytes: int) -> tuple[int, ...]:
    """Sizes in bytes of the index levels of a blob, lowest first; empty for a blob of at most one chunk."""
    sizes: list[int] = []
    count = chunk_count(size_bytes)
    while count > 1:
        sizes.append(count * DIGEST_BYTES)
        count = chunk_count(sizes[-1])
    return tuple(sizes)


def build_index(chunk_digests: Iterable[bytes]) -> tuple[bytes, ...]:
    """The index levels over raw chunk digests, lowest first. Law: lengths equal `index_sizes(size)`."""
    level = b"".join(chunk_digests)
    if len(level) <= DIGEST_BYTES:
        return ()
    levels = [level]
    while len(levels[-1]) > CHUNK_SIZE_BYTES:
        below = levels[-1]
        parts = (below[at : at + CHUNK_SIZE_BYTES] for at in range(0, len(below), CHUNK_SIZE_BYTES))
        levels.append(b"".join(hashlib.sha256(part).digest() for part in parts))
    return tuple(levels)


def digest_at(index: bytes, position: int) -> str:
    """The expected SHA-256 (hex) of chunk `position`, read from its index."""
    return index[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES].hex()


def encode_chunk(chunk: Chunk, *, deflate: bool = True) -> bytes:
    """Frame a chunk, deflated where that saves at least a sixteenth and a sample of it promises so.

    With `deflate` false it is not even tried.
    """
    packed = _deflate(chunk.raw) if deflate and _looks_compressible(chunk.raw) else chunk.raw
    worth = len(packed) * _WORTH_DENOMINATOR <= len(chunk.raw) * _WORTH_NUMERATOR
    codec, payload = (Codec.DEFLATE, packed) if worth else (Codec.NONE, chunk.raw)
    blob = bytes.fromhex(chunk.blob_sha256)
    return _CHUNK_HEAD.pack(b"PC", FRAME_VERSION, codec, chunk.index, len(chunk.raw), blob) + payload


def encode_reply(reply: Reply) -> bytes:
    """Frame a reply."""
    blob = bytes.fromhex(reply.blob_sha256)
    return _REPLY_HEAD.pack(b"PR", FRAME_VERSION, reply.kind, reply.retry_after_ms, blob)


def decode_frame(frame: bytes) -> Chunk | Reply:
    """Read what came on a data or blob topic; a chunk's output is bounded to 64 KiB.

    Raises:
        MalformedMessageError: not one of ours, truncated, or inflates to another size than its head says.
    """
    if frame[:2] == b"PC":
        return _decode_chunk(frame)
    if frame[:2] == b"PR":
        return _decode_reply(frame)
    raise MalformedMessageError(f"unknown frame kind {frame[:2]!r}")


def claimed_chunk(frame: bytes) -> tuple[str, int] | None:
    """Blob and number of the chunk that a frame says it carries, whole or not; None when it says none."""
    if frame[:2] != b"PC" or len(frame) < _CHUNK_HEAD.size:
        return None
    _, _, _, index, _, blob = _CHUNK_HEAD.unpack_from(frame)
    return blob.hex(), index


def encode_want(want: Want) -> bytes:
    """Frame a request."""
    head = _WANT_HEAD.pack(
        b"PW",
        FRAME_VERSION,
        WantFlag.MERGED if want.merged else 0,
        want.request_id & 0xFFFFFFFF,
        want.window,
        len(want.ranges),
        bytes.fromhex(want.blob_sha256),
    )
    return head + b"".join(_RANGE.pack(part.start, part.count) for part in want.ranges)


def decode_want(frame: bytes) -> Want:
    """Read a request. Law: `decode_want(encode_want(w)) == w`.

    Raises:
        MalformedMessageError: not a request, truncated, too many ranges, or an empty range.
    """
    if len(frame) < _WANT_HEAD.size:
        raise MalformedMessageError("request is shorter than its head")
    kind, version, flags, request_id, window, count, blob = _WANT_HEAD.unpack_from(frame)
    if kind != b"PW" or version != FRAME_VERSION:
        raise MalformedMessageError(f"not a request of version {FRAME_VERSION}: {kind!r} {version}")
    if count > WANT_MAX_RANGES or len(frame) != _WANT_HEAD.size + count * _RANGE.size:
        raise MalformedMessageError(f"request names {count} ranges in {len(frame)} bytes")
    ranges = tuple(ChunkRange(*parts) for parts in _RANGE.iter_unpack(frame[_WANT_HEAD.size :]))
    if any(part.count == 0 for part in ranges):
        raise MalformedMessageError("request holds an empty range")
    return Want(blob.hex(), request_id, window, ranges, bool(flags & WantFlag.MERGED))


def ranges_of(indexes: Sequence[int]) -> tuple[ChunkRange, ...]:
    """Fold ascending chunk numbers into ranges, at most `WANT_MAX_RANGES` of them."""
    ranges: list[ChunkRange] = []
    for index in indexes:
        if ranges and ranges[-1].start + ranges[-1].count == index:
            ranges[-1] = ChunkRange(ranges[-1].start, ranges[-1].count + 1)
        elif len(ranges) == WANT_MAX_RANGES:
            break
        else:
            ranges.append(ChunkRange(index, 1))
    return tuple(ranges)


def _decode_chunk(frame: bytes) -> Chunk:
    if len(frame) < _CHUNK_HEAD.size:
        raise MalformedMessageError("chunk frame is shorter than its head")
    _, version, codec, index, raw_length, blob = _CHUNK_HEAD.unpack_from(frame)
    if version != FRAME_VERSION or raw_length > CHUNK_SIZE_BYTES:
        raise MalformedMessageError(f"chunk frame of version {version} with {raw_length} bytes")
    payload = frame[_CHUNK_HEAD.size :]
    if codec == Codec.NONE:
        raw = payload
    elif codec == Codec.DEFLATE:
        raw = _inflate(payload, raw_length)
    else:
        raise MalformedMessageError(f"unknown chunk codec {codec}")
    if len(raw) != raw_length:
        raise MalformedMessageError(f"chunk holds {len(raw)} bytes, its head says {raw_length}")
    return Chunk(blob.hex(), index, raw)


def _decode_reply(frame: bytes) -> Reply:
    if len(frame) != _REPLY_HEAD.size:
        raise MalformedMessageError("reply frame has a wrong length")
    _, version, kind, retry_after_ms, blob = _REPLY_HEAD.unpack(frame)
    if version != FRAME_VERSION or kind not in tuple(ReplyKind):
        raise MalformedMessageError(f"unknown reply {kind} of version {version}")
    return Reply(blob.hex(), ReplyKind(kind), retry_after_ms)


def _looks_compressible(raw: bytes) -> bool:
    """Deflating what does not shrink costs ten times as much as all the rest of sending it."""
    if len(raw) <= _SAMPLE_PARTS * _SAMPLE_PART_BYTES:
        return True
    step = len(raw) // _SAMPLE_PARTS
    sample = b"".join(raw[at : at + _SAMPLE_PART_BYTES] for at in range(0, step * _SAMPLE_PARTS, step))
    return len(_deflate(sample)) < len(sample)


def _deflate(raw: bytes) -> bytes:
    packer = zlib.compressobj(level=1, wbits=-15)
    return packer.compress(raw) + packer.flush()


def _inflate(payload: bytes, raw_length: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=-15)
    try:
        raw = unpacker.decompress(payload, raw_length + 1)
    except zlib.error as error:
        raise MalformedMessageError(f"chunk does not inflate: {error}") from error
    if not unpacker.eof or unpacker.unused_data:
        raise MalformedMessageError("chunk's deflate stream does not end where the frame does")
    return raw
