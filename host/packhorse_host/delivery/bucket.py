"""A token bucket. Pure: the caller says what time it is."""

from __future__ import annotations


class TokenBucket:
    """Lets `rate_bytes_per_s` through on average, and up to `burst_bytes` at once."""

    def __init__(self, rate_bytes_per_s: float, burst_bytes: float, now_s: float) -> None:
        self._rate_bytes_per_s = rate_bytes_per_s
        self._burst_bytes = burst_bytes
        self._tokens_bytes = burst_bytes
        self._at_s = now_s

    def take(self, size_bytes: int, now_s: float) -> None:
        """Spend `size_bytes`; the balance may go below zero, so that any size passes in the end."""
        self._refill(now_s)
        self._tokens_bytes -= size_bytes

    def due_s(self, now_s: float) -> float:
        """When something may be sent: `now_s` or later."""
        self._refill(now_s)
        return now_s + max(0.0, -self._tokens_bytes) / self._rate_bytes_per_s

    def _refill(self, now_s: float) -> None:
        grown_bytes = (now_s - self._at_s) * self._rate_bytes_per_s
        self._tokens_bytes = min(self._burst_bytes, self._tokens_bytes + grown_bytes)
        self._at_s = now_s
