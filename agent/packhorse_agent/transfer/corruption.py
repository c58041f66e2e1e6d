"""When to stop asking for what only ever comes damaged. Pure.

A broker may damage what it carries, and a host's file may be damaged: neither is a reason to ask for ever,
and a short disturbance is none to give up.
"""

from __future__ import annotations

from packhorse_agent.transfer.flow import ChunkKey

CORRUPT_MAX = 8
"""Damaged arrivals of one chunk that a download stands at least."""

CORRUPT_PATIENCE_S = 60.0
"""How long it stands them at least; asking backs off to 30 s, so that it ends within minutes."""


class Corruption:
    """Damaged arrivals of each chunk since it was first asked for. Times are seconds."""

    def __init__(self) -> None:
        self._seen: dict[ChunkKey, tuple[int, float]] = {}

    def note(self, key: ChunkKey, now_s: float) -> str:
        """Count one; returns in words why there is no hope left, empty while there is."""
        count, since_s = self._seen.get(key, (0, now_s))
        self._seen[key] = (count + 1, since_s)
        if count + 1 < CORRUPT_MAX or now_s - since_s < CORRUPT_PATIENCE_S:
            return ""
        return (
            f"chunk {key[1]} of blob {key[0]} came corrupt {count + 1} times within {now_s - since_s:.0f} s: "
            "the host's copy is damaged, or what carries it damages it"
        )

    def clear(self, key: ChunkKey) -> None:
        """The chunk came as it should."""
        self._seen.pop(key, None)

    def forget(self, sha256: str) -> None:
        """The blob is not fetched any more."""
        for key in [key for key in self._seen if key[0] == sha256]:
            del self._seen[key]
