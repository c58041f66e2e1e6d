"""What a download needs to know about a blob, and what comes of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from packhorse_agent.contract.chunks import index_sizes
from packhorse_agent.contract.limits import ARTIFACT_MAX_BYTES, METADATA_MAX_BYTES
from packhorse_agent.contract.states import FailureReason
from packhorse_agent.errors import BadInputError

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BlobSpec:
    """A blob as signed metadata names it.

    `chunk_index` is the SHA-256 of each index level, lowest first. A blob of up to `METADATA_MAX_BYTES` may
    come without: then it is assembled in memory and checked as a whole.

    Raises:
        BadInputError: not a digest, a size out of bounds, or index levels that do not fit the size.
    """

    sha256: str
    size_bytes: int
    chunk_index: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(_SHA256.fullmatch(digest) for digest in (self.sha256, *self.chunk_index)):
            raise BadInputError(f"not a SHA-256 digest in {self!r}")
        if not 1 <= self.size_bytes <= ARTIFACT_MAX_BYTES:
            raise BadInputError(
                f"blob {self.sha256} has {self.size_bytes} bytes, allowed are 1 to {ARTIFACT_MAX_BYTES}"
            )
        levels = len(index_sizes(self.size_bytes))
        whole = not self.chunk_index and self.size_bytes <= METADATA_MAX_BYTES
        if len(self.chunk_index) != levels and not whole:
            raise BadInputError(
                f"blob {self.sha256} names {len(self.chunk_index)} index levels, its size needs {levels}"
            )


@dataclass(frozen=True)
class Completed:
    """The blob is in the store, checked."""

    sha256: str


@dataclass(frozen=True)
class Failed:
    """The blob will not come; nothing asks for it any more."""

    sha256: str
    reason: FailureReason
    detail: str


DownloadEvent = Completed | Failed


@dataclass
class DownloadCounters:
    """What came in and what was done about it, since the start of the process."""

    received: int = 0
    """Frames."""
    stored: int = 0
    """Chunks that were checked and kept."""
    duplicate: int = 0
    """Chunks that were there already."""
    corrupt: int = 0
    """Chunks that do not fit their digest."""
    malformed: int = 0
    """Frames that are none of ours."""
    unasked: int = 0
    """Frames of blobs that nobody wants."""
    asked_again: int = 0
    """Chunks that were given up and asked for again."""
    reused: int = 0
    """Chunks that another blob in the store supplied."""
    busy: int = 0
    """Replies that told to wait."""
    not_found: int = 0
    """Replies that ended a download."""
