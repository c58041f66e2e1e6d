"""Digest, size and index of a file, out of the metadata that signed it."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError
from tuf.api.metadata import MetaFile, TargetFile

from packhorse_agent.contract.base import Sha256Hex
from packhorse_agent.contract.chunks import index_sizes
from packhorse_agent.contract.limits import METADATA_MAX_BYTES
from packhorse_agent.trust.errors import (
    IncompleteMetadataError,
    MalformedMetadataError,
    OversizedMetadataError,
)
from packhorse_agent.trust.ports import NeededBlob

CHUNK_INDEX_FIELD = "chunk_index"
"""Signed beside hash and length of what is larger than one chunk: SHA-256 of its index levels."""

_DIGESTS: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[Sha256Hex, ...])


def signed_blob(name: str, signed: MetaFile | TargetFile) -> NeededBlob:
    """Digest, size and index of a file as signed metadata states them.

    Raises:
        IncompleteMetadataError: no length or no SHA-256.
        OversizedMetadataError: longer than `METADATA_MAX_BYTES`.
        MalformedMetadataError: the chunk index does not fit the length.
    """
    sha256 = (signed.hashes or {}).get("sha256")
    if signed.length is None or sha256 is None:
        raise IncompleteMetadataError(f"signed metadata states no length and SHA-256 for {name}")
    if signed.length > METADATA_MAX_BYTES:
        raise OversizedMetadataError(f"{name} has {signed.length} bytes, at most {METADATA_MAX_BYTES} may be")
    return NeededBlob(sha256, signed.length, _chunk_index(name, signed))


def _chunk_index(name: str, signed: MetaFile | TargetFile) -> tuple[str, ...]:
    custom: Any = signed.custom if isinstance(signed, TargetFile) else signed.unrecognized_fields
    try:
        index = _DIGESTS.validate_python((custom or {}).get(CHUNK_INDEX_FIELD, ()))
    except (ValidationError, AttributeError) as error:
        raise MalformedMetadataError(f"the chunk index of {name} cannot be read") from error
    if len(index) != len(index_sizes(signed.length or 0)):
        raise MalformedMetadataError(f"the chunk index of {name} does not fit its length")
    return index
