"""What a wanted blob must say about itself."""

from __future__ import annotations

import pytest

from packhorse_agent.contract.limits import ARTIFACT_MAX_BYTES, CHUNK_SIZE_BYTES, METADATA_MAX_BYTES
from packhorse_agent.errors import BadInputError
from packhorse_agent.transfer import BlobSpec

SHA = "ab" * 32


@pytest.mark.parametrize(
    ("size_bytes", "levels"),
    [
        (1, 0),
        (CHUNK_SIZE_BYTES, 0),
        (CHUNK_SIZE_BYTES + 1, 0),
        (METADATA_MAX_BYTES, 0),
        (CHUNK_SIZE_BYTES + 1, 1),
        (2048 * CHUNK_SIZE_BYTES, 1),
        (2048 * CHUNK_SIZE_BYTES + 1, 2),
        (ARTIFACT_MAX_BYTES, 2),
    ],
)
def test_levels_that_fit_the_size(size_bytes: int, levels: int) -> None:
    assert BlobSpec(SHA, size_bytes, (SHA,) * levels).size_bytes == size_bytes


@pytest.mark.parametrize(
    ("sha256", "size_bytes", "levels"),
    [
        (SHA, 0, ()),
        (SHA, -1, ()),
        (SHA, ARTIFACT_MAX_BYTES + 1, (SHA, SHA)),
        (SHA, 1, (SHA,)),
        (SHA, METADATA_MAX_BYTES + 1, ()),
        (SHA, 2 * CHUNK_SIZE_BYTES, (SHA, SHA)),
        (SHA, 2049 * CHUNK_SIZE_BYTES, (SHA,)),
        (SHA, 2 * CHUNK_SIZE_BYTES, ("../up",)),
        (SHA.upper(), 1, ()),
        ("", 1, ()),
        (SHA + "\n", 1, ()),
    ],
)
def test_a_description_that_does_not_hold_together_is_refused(
    sha256: str, size_bytes: int, levels: tuple[str, ...]
) -> None:
    with pytest.raises(BadInputError):
        BlobSpec(sha256, size_bytes, levels)
