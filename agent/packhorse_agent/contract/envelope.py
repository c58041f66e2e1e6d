"""The envelope of a signed report: ``PHR1``, a 64-byte Ed25519 signature, the report as JSON.

The signature covers `SIGNING_CONTEXT` and the JSON, so that it can never pass for a signature over
anything else. Signing and verifying stay outside: they are passed in.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.errors import MalformedMessageError, UnreadableContentError
from packhorse_agent.contract.limits import REPORT_MAX_BYTES
from packhorse_agent.contract.messages import Report

MAGIC = b"PHR1"
SIGNATURE_BYTES = 64
SIGNING_CONTEXT = b"packhorse-report-v1\0"

Sign = Callable[[bytes], bytes]
"""Message → 64-byte Ed25519 signature."""

Verify = Callable[[bytes, bytes], bool]
"""(signature, message) → whether it is the device's."""


def seal(report: Report, sign: Sign) -> bytes:
    """Sign a report.

    Raises:
        ValueError: the report is larger than `REPORT_MAX_BYTES`.
    """
    content = canonical_json(report)
    envelope = MAGIC + sign(SIGNING_CONTEXT + content) + content
    if len(envelope) > REPORT_MAX_BYTES:
        raise ValueError(f"report of {len(envelope)} bytes is over {REPORT_MAX_BYTES}")
    return envelope


def unseal(envelope: bytes, verify: Verify) -> Report | None:
    """Read a report; None when the signature is not the device's. Nothing unverified is parsed.

    Raises:
        MalformedMessageError: no envelope, or too large; nothing was verified.
        UnreadableContentError: genuine, and no report that this version reads.
    """
    if not len(MAGIC) + SIGNATURE_BYTES < len(envelope) <= REPORT_MAX_BYTES or not envelope.startswith(MAGIC):
        raise MalformedMessageError(f"no report envelope in {len(envelope)} bytes")
    signature = envelope[len(MAGIC) : len(MAGIC) + SIGNATURE_BYTES]
    content = envelope[len(MAGIC) + SIGNATURE_BYTES :]
    if not verify(signature, SIGNING_CONTEXT + content):
        return None
    try:
        return Report.model_validate_json(content)
    except ValidationError as error:
        raise UnreadableContentError(f"signed content is no report: {error}", content) from error
