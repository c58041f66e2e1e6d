"""A record reads back as it was written, and damage is noticed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.telemetry.record import OVERHEAD_BYTES, Record, decode_record, encode_record

RECORDS = st.builds(Record, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=300))


@given(RECORDS)
def test_round_trip(record: Record) -> None:
    encoded = encode_record(record)
    assert decode_record(encoded) == record
    assert len(encoded) == OVERHEAD_BYTES + len(record.content)


@given(RECORDS, st.data())
def test_any_flipped_bit_is_noticed(record: Record, data: st.DataObject) -> None:
    encoded = bytearray(encode_record(record))
    at = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[at // 8] ^= 1 << at % 8
    assert decode_record(bytes(encoded)) is None


@given(RECORDS, st.data())
def test_any_truncation_is_noticed(record: Record, data: st.DataObject) -> None:
    encoded = encode_record(record)
    assert decode_record(encoded[: data.draw(st.integers(0, len(encoded) - 1))]) is None


@given(st.binary(max_size=64))
def test_rubbish_is_no_record(rubbish: bytes) -> None:
    assert decode_record(rubbish) is None
