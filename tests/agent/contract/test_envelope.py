"""A sealed report opens to itself, and to nothing when a bit was changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.envelope import MAGIC, SIGNATURE_BYTES, SIGNING_CONTEXT, seal, unseal
from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.limits import REPORT_MAX_BYTES
from packhorse_agent.contract.messages import Report
from tests.fakes.fleet import fake_sign, fake_verify, state, window

HEADER_BYTES = len(MAGIC) + SIGNATURE_BYTES
REPORT = Report(fleet="field", device_id="pi-1", stream="telemetry", boot=3, sequence=9, items=(window(1),))
ENVELOPE = seal(REPORT, fake_sign)


def with_detail(size: int) -> Report:
    return REPORT.model_copy(update={"stream": "state", "items": (state(1, "x" * size),)})


@given(st.integers(1, 2**53), st.integers(1, 2**53), st.integers(1, 5))
def test_round_trip(boot: int, sequence: int, count: int) -> None:
    items = tuple(window(number) for number in range(count))
    report = REPORT.model_copy(update={"boot": boot, "sequence": sequence, "items": items})
    assert unseal(seal(report, fake_sign), fake_verify) == report


def test_the_layout_is_the_documented_one() -> None:
    content = canonical_json(REPORT)
    assert b"PHR1" + fake_sign(b"packhorse-report-v1\0" + content) + content == ENVELOPE
    assert SIGNING_CONTEXT == b"packhorse-report-v1\0"


@given(st.integers(len(MAGIC) * 8, len(ENVELOPE) * 8 - 1))
def test_any_bit_changed_after_the_magic_makes_it_nobodys(bit: int) -> None:
    forged = bytearray(ENVELOPE)
    forged[bit // 8] ^= 1 << bit % 8
    assert unseal(bytes(forged), fake_verify) is None


def test_a_signature_over_the_bare_content_does_not_pass() -> None:
    """Something else that the key signed can never be taken for a report."""
    content = canonical_json(REPORT)
    assert unseal(MAGIC + fake_sign(content) + content, fake_verify) is None


def test_nothing_unverified_is_parsed() -> None:
    """Rubbish under a wrong signature is a forgery, not a malformed report."""
    assert unseal(MAGIC + bytes(SIGNATURE_BYTES) + b"\xff{", fake_verify) is None


@pytest.mark.parametrize(
    "envelope",
    [
        pytest.param(b"", id="empty"),
        pytest.param(MAGIC, id="magic alone"),
        pytest.param(ENVELOPE[: HEADER_BYTES - 1], id="half a signature"),
        pytest.param(ENVELOPE[:HEADER_BYTES], id="no content"),
        pytest.param(b"PHR2" + ENVELOPE[4:], id="another magic"),
        pytest.param(ENVELOPE + b" " * REPORT_MAX_BYTES, id="too large"),
    ],
)
def test_what_is_no_envelope_is_malformed_before_anything_is_verified(envelope: bytes) -> None:
    def never(_signature: bytes, _message: bytes) -> bool:
        raise AssertionError

    with pytest.raises(MalformedMessageError):
        unseal(envelope, never)


@pytest.mark.parametrize("content", [b"{}", b"[]", b"\xff\xfe", b"null", b"{", b'{"format": 2}'])
def test_signed_content_that_is_no_report_is_malformed(content: bytes) -> None:
    envelope = MAGIC + fake_sign(SIGNING_CONTEXT + content) + content
    with pytest.raises(MalformedMessageError, match="no report"):
        unseal(envelope, fake_verify)


@given(st.binary(max_size=300))
def test_rubbish_is_refused_and_never_crashes(rubbish: bytes) -> None:
    try:
        assert unseal(rubbish, fake_verify) is None
    except MalformedMessageError:
        return


def test_the_largest_report_is_sealed_and_one_byte_more_is_not() -> None:
    room = REPORT_MAX_BYTES - len(seal(with_detail(0), fake_sign))
    largest = with_detail(room)
    assert len(seal(largest, fake_sign)) == REPORT_MAX_BYTES
    assert unseal(seal(largest, fake_sign), fake_verify) == largest
    with pytest.raises(ValueError, match="is over"):
        seal(with_detail(room + 1), fake_sign)
