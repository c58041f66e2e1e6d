"""The one place where python-tuf's errors become ours."""

from __future__ import annotations

from tuf.api import exceptions as tuf_errors
from tuf.api.serialization import DeserializationError

from packhorse_agent.errors import UntrustedError
from packhorse_agent.trust.errors import (
    BadSignatureError,
    ExpiredMetadataError,
    MalformedMetadataError,
    MixedMetadataError,
    OlderMetadataError,
    OversizedMetadataError,
)


def translate(error: Exception, part: str) -> UntrustedError:
    """Our error for one of python-tuf's, raised while `part` (a metadata file) was handled."""
    if isinstance(error, DeserializationError):
        return MalformedMetadataError(f"{part} cannot be read: {error}")
    if isinstance(error, tuf_errors.ExpiredMetadataError):
        return ExpiredMetadataError(f"metadata refused: {error}")
    if isinstance(error, tuf_errors.BadVersionNumberError):
        return OlderMetadataError(f"{part} refused: {error}")
    if isinstance(error, tuf_errors.UnsignedMetadataError):
        return BadSignatureError(f"{part} refused: {error}")
    if isinstance(error, tuf_errors.LengthOrHashMismatchError):
        return MixedMetadataError(f"{part} does not belong to this metadata: {error}")
    if isinstance(error, tuf_errors.DownloadLengthMismatchError):
        return OversizedMetadataError(f"{part} refused: {error}")
    if "missing info for" in str(error):
        return OlderMetadataError(f"{part} refused: {error}")
    return MalformedMetadataError(f"{part} refused: {error}")
