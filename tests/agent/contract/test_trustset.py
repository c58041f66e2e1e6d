"""The trust set: framed metadata, bounded before it is parsed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.limits import TRUST_SET_MAX_BYTES, TRUST_SET_MAX_ENTRIES
from packhorse_agent.contract.trustset import decode_trust_set, encode_trust_set

parts = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True)
file_names = st.lists(parts, min_size=1, max_size=4).map("/".join)
file_sets = st.dictionaries(file_names, st.binary(max_size=500), max_size=10)


def entry(name: bytes, data: bytes) -> bytes:
    return bytes([len(name)]) + name + len(data).to_bytes(4, "big") + data


def framed(*entries: bytes, kind: bytes = b"PT", version: int = 1, count: int | None = None) -> bytes:
    return kind + bytes([version, len(entries) if count is None else count]) + b"".join(entries)


@given(file_sets)
def test_a_trust_set_reads_back(files: dict[str, bytes]) -> None:
    assert decode_trust_set(encode_trust_set(files)) == files


@given(file_sets)
def test_the_order_of_files_does_not_change_the_bytes(files: dict[str, bytes]) -> None:
    assert encode_trust_set(dict(reversed(files.items()))) == encode_trust_set(files)


def test_the_names_of_a_repository_fit() -> None:
    files = {"3.root.json": b"{}", "timestamp.json": b"{}", "bundles/m/1.0/p/fp32/manifest.json": b"{}"}
    assert decode_trust_set(encode_trust_set(files)) == files


BAD_NAMES = [
    "",
    ".",
    "..",
    "/a",
    "a/",
    "a//b",
    "a/../b",
    "a/.b",
    ".a",
    "a b",
    "a\n",
    "é",
    "a\0",
    "x" * 202,
    "a\\b",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_leave_the_store_is_never_carried(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a file"):
        encode_trust_set({name: b""})
    with pytest.raises(MalformedMessageError):
        decode_trust_set(framed(entry(name.encode(), b"")))


def test_a_set_over_the_limit_is_not_made() -> None:
    room = TRUST_SET_MAX_BYTES - len(encode_trust_set({"a": b""}))
    assert len(encode_trust_set({"a": bytes(room)})) == TRUST_SET_MAX_BYTES
    with pytest.raises(ValueError, match="over"):
        encode_trust_set({"a": bytes(room + 1)})


def test_too_many_files_are_not_framed() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        encode_trust_set({f"f{at}": b"" for at in range(TRUST_SET_MAX_ENTRIES + 1)})


GOOD = encode_trust_set({"1.root.json": b"root", "timestamp.json": b"time"})
BAD_SETS = {
    "empty": b"",
    "another kind": b"XX" + GOOD[2:],
    "another version": framed(version=2),
    "too many entries": framed(count=TRUST_SET_MAX_ENTRIES + 1),
    "fewer entries than promised": framed(entry(b"a", b"1"), count=2),
    "more entries than promised": framed(entry(b"a", b"1"), entry(b"b", b"2"), count=1),
    "the same name twice": framed(entry(b"a", b"1"), entry(b"a", b"2")),
    "a length past the end": framed(b"\x01a\xff\xff\xff\xff"),
    "too large": GOOD + bytes(TRUST_SET_MAX_BYTES),
    "bytes left over": GOOD + b"x",
}


@pytest.mark.parametrize("data", BAD_SETS.values(), ids=BAD_SETS.keys())
def test_a_malformed_set_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode_trust_set(data)


def test_a_set_cut_anywhere_is_refused() -> None:
    for length in range(len(GOOD)):
        with pytest.raises(MalformedMessageError):
            decode_trust_set(GOOD[:length])


@given(st.binary(max_size=200).map(lambda data: b"PT\x01" + data))
def test_whatever_is_read_frames_to_a_set_that_reads_the_same(data: bytes) -> None:
    try:
        files = decode_trust_set(data)
    except MalformedMessageError:
        return
    assert decode_trust_set(encode_trust_set(files)) == files
