"""Bytes in, trusted objects out: TUF metadata, bundle folders, device keys, and the time.

What verification stands on is python-tuf's client; this package feeds it from memory, keeps what it
accepted, and translates its errors.
"""

from packhorse_agent.trust.errors import (
    BadSignatureError,
    ExpiredMetadataError,
    IncompleteMetadataError,
    MalformedMetadataError,
    MixedMetadataError,
    OlderMetadataError,
    OversizedMetadataError,
    WrongFleetError,
)
from packhorse_agent.trust.keeper import TrustKeeper
from packhorse_agent.trust.needs import BlobReader, NeededBlob, NeedsBlobs
from packhorse_agent.trust.view import TargetInfo, TrustedView

__all__ = [
    "BadSignatureError",
    "BlobReader",
    "ExpiredMetadataError",
    "IncompleteMetadataError",
    "MalformedMetadataError",
    "MixedMetadataError",
    "NeededBlob",
    "NeedsBlobs",
    "OlderMetadataError",
    "OversizedMetadataError",
    "TargetInfo",
    "TrustKeeper",
    "TrustedView",
    "WrongFleetError",
]
