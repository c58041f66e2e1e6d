"""Chunks, their index and the frames that carry them."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from packhorse_agent.contract.chunks import (
    DIGEST_BYTES,
    Chunk,
    ChunkRange,
    Reply,
    ReplyKind,
    Want,
    build_index,
    chunk_count,
    chunk_size,
    claimed_chunk,
    decode_frame,
    decode_want,
    digest_at,
    encode_chunk,
    encode_reply,
    encode_want,
    index_sizes,
    ranges_of,
)
from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES, MQTT_PAYLOAD_MAX_BYTES, WANT_MAX_RANGES
from tests.agent.contract.strategies import digests

BLOB = "ab" * 32
CHUNK_HEAD = struct.Struct(">2sBBII32s")
WANT_HEAD = struct.Struct(">2sBBIHH32s")

u32 = st.integers(0, 2**32 - 1)
sizes = st.integers(0, 2**40) | st.sampled_from([0, 1, 65535, 65536, 65537, 2**27, 2**27 + 1])
chunks = st.builds(
    Chunk, digests, u32, st.binary(max_size=2000) | st.binary(max_size=2).map(lambda b: b * 20_000)
)
ranges = st.lists(st.builds(ChunkRange, u32, st.integers(1, 2**32 - 1)), max_size=20).map(tuple)
wants = st.builds(Want, digests, u32, st.integers(0, 65535), ranges, st.booleans())


def raw_deflate(raw: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(raw) + packer.flush()


def chunk_frame(payload: bytes, *, codec: int, raw_length: int, version: int = 1) -> bytes:
    return CHUNK_HEAD.pack(b"PC", version, codec, 0, raw_length, bytes.fromhex(BLOB)) + payload


@given(sizes)
def test_the_chunks_of_a_blob_add_up_to_its_size(size_bytes: int) -> None:
    count = chunk_count(size_bytes)
    full, last = max(count - 1, 0), chunk_size(size_bytes, count - 1) if count else 0
    assert full * CHUNK_SIZE_BYTES + last == size_bytes
    assert (last > 0) == (count > 0)


@given(sizes)
def test_index_levels_shrink_to_one_chunk(size_bytes: int) -> None:
    levels = index_sizes(size_bytes)
    assert (levels == ()) == (size_bytes <= CHUNK_SIZE_BYTES)
    for below, level in zip((size_bytes, *levels), levels, strict=False):
        assert level == chunk_count(below) * DIGEST_BYTES
    assert not levels or levels[-1] <= CHUNK_SIZE_BYTES


@pytest.mark.parametrize("count", [0, 1, 2, 3, 2048, 2049, 5000])
def test_a_built_index_has_the_promised_sizes(count: int) -> None:
    digests_of_chunks = [hashlib.sha256(str(at).encode()).digest() for at in range(count)]
    levels = build_index(digests_of_chunks)
    assert tuple(map(len, levels)) == index_sizes(count * CHUNK_SIZE_BYTES)


def test_each_index_level_holds_the_digests_of_the_chunks_below() -> None:
    digests_of_chunks = [hashlib.sha256(str(at).encode()).digest() for at in range(2049)]
    lowest, top = build_index(digests_of_chunks)
    assert [digest_at(lowest, at) for at in (0, 2048)] == [digests_of_chunks[at].hex() for at in (0, 2048)]
    assert digest_at(top, 0) == hashlib.sha256(lowest[:CHUNK_SIZE_BYTES]).hexdigest()
    assert digest_at(top, 1) == hashlib.sha256(lowest[CHUNK_SIZE_BYTES:]).hexdigest()


@given(chunks)
@example(Chunk(BLOB, 0, b""))
@example(Chunk(BLOB, 2**32 - 1, bytes(CHUNK_SIZE_BYTES)))
def test_a_chunk_reads_back_and_fits_a_message(chunk: Chunk) -> None:
    frame = encode_chunk(chunk)
    assert decode_frame(frame) == chunk
    assert len(frame) <= MQTT_PAYLOAD_MAX_BYTES


def test_a_chunk_is_deflated_only_where_that_helps() -> None:
    noise = b"".join(hashlib.sha256(bytes([at])).digest() for at in range(200))
    assert len(encode_chunk(Chunk(BLOB, 0, bytes(CHUNK_SIZE_BYTES)))) < 1000
    assert encode_chunk(Chunk(BLOB, 0, noise)).endswith(noise)


@pytest.mark.parametrize("kind", ReplyKind)
@given(retry_after_ms=u32, digest=digests)
def test_a_reply_reads_back(kind: ReplyKind, retry_after_ms: int, digest: str) -> None:
    reply = Reply(digest, kind, retry_after_ms)
    assert decode_frame(encode_reply(reply)) == reply


@given(wants)
def test_a_request_reads_back(want: Want) -> None:
    assert decode_want(encode_want(want)) == want


def test_the_largest_request_fits_a_message() -> None:
    want = Want(BLOB, 1, 64, tuple(ChunkRange(at * 2, 1) for at in range(WANT_MAX_RANGES)))
    assert len(encode_want(want)) <= MQTT_PAYLOAD_MAX_BYTES
    assert decode_want(encode_want(want)) == want


@given(st.sets(st.integers(0, 3000)))
def test_ranges_cover_the_first_of_the_wanted_chunks_and_nothing_else(wanted: set[int]) -> None:
    folded = ranges_of(sorted(wanted))
    covered = [index for part in folded for index in range(part.start, part.start + part.count)]
    assert covered == sorted(wanted)[: len(covered)]
    assert len(covered) == len(wanted) or len(folded) == WANT_MAX_RANGES


def test_no_more_ranges_than_a_request_may_name() -> None:
    assert len(ranges_of(range(0, 4000, 2))) == WANT_MAX_RANGES


BAD_FRAMES = {
    "empty": b"",
    "another kind": b"XX" + bytes(42),
    "chunk without its head": b"PC\x01",
    "chunk of another version": chunk_frame(b"a", codec=0, raw_length=1, version=2),
    "unknown codec": chunk_frame(b"a", codec=9, raw_length=1),
    "shorter than its head says": chunk_frame(b"a", codec=0, raw_length=2),
    "longer than its head says": chunk_frame(b"abc", codec=0, raw_length=2),
    "more than a chunk": chunk_frame(bytes(CHUNK_SIZE_BYTES + 1), codec=0, raw_length=CHUNK_SIZE_BYTES + 1),
    "not deflate": chunk_frame(b"\xff\xff\xff\xff", codec=1, raw_length=4),
    "truncated deflate": chunk_frame(raw_deflate(b"abcd" * 100)[:-2], codec=1, raw_length=400),
    "inflates to less": chunk_frame(raw_deflate(b"abc"), codec=1, raw_length=4),
    "inflates to more": chunk_frame(raw_deflate(b"abcde"), codec=1, raw_length=4),
    "a bomb": chunk_frame(raw_deflate(bytes(50_000_000)), codec=1, raw_length=CHUNK_SIZE_BYTES),
    "bytes after the deflate stream": chunk_frame(raw_deflate(b"abcd") + b"x", codec=1, raw_length=4),
    "reply of another length": encode_reply(Reply(BLOB, ReplyKind.BUSY)) + b"x",
    "unknown reply": struct.pack(">2sBBI32s", b"PR", 1, 7, 0, bytes(32)),
    "reply of another version": struct.pack(">2sBBI32s", b"PR", 2, 1, 0, bytes(32)),
}


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_a_malformed_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode_frame(frame)


GOOD_WANT = encode_want(Want(BLOB, 1, 8, (ChunkRange(0, 4),)))
BAD_WANTS = {
    "empty": b"",
    "head only, one range promised": GOOD_WANT[: WANT_HEAD.size],
    "truncated": GOOD_WANT[:-1],
    "bytes left over": GOOD_WANT + b"x",
    "another kind": b"PX" + GOOD_WANT[2:],
    "another version": GOOD_WANT[:2] + b"\x02" + GOOD_WANT[3:],
    "an empty range": encode_want(Want(BLOB, 1, 8, (ChunkRange(5, 0),))),
    "too many ranges": WANT_HEAD.pack(b"PW", 1, 0, 1, 8, WANT_MAX_RANGES + 1, bytes(32))
    + struct.pack(">II", 1, 1) * (WANT_MAX_RANGES + 1),
}


def test_a_torn_frame_still_says_which_chunk_it_was() -> None:
    whole = encode_chunk(Chunk("ab" * 32, 7, b"x" * 100))
    for frame in (whole, whole[:-1], whole + b"x", whole[:44]):
        assert claimed_chunk(frame) == ("ab" * 32, 7)
    for frame in (b"", b"PC", whole[:43], b"PR" + whole[2:]):
        assert claimed_chunk(frame) is None


@pytest.mark.parametrize("frame", BAD_WANTS.values(), ids=BAD_WANTS.keys())
def test_a_malformed_request_is_refused(frame: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode_want(frame)


@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda b: b"PC\x01\x01" + b))
def test_any_bytes_are_read_or_refused(frame: bytes) -> None:
    for decode in (decode_frame, decode_want):
        with contextlib.suppress(MalformedMessageError):
            decode(frame)
