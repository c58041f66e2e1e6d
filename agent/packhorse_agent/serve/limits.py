"""Bounds on what the applications of a device may ask of a worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CONTROL_LINE_MAX_BYTES: Final = 64 * 1024
"""One message between supervisor and worker."""


@dataclass(frozen=True)
class ServeLimits:
    """Named bounds, each with its unit."""

    body_max_bytes: int = 16 * 1024**2
    """One request's body."""
    buffered_max_bytes: int = 64 * 1024**2
    """All bodies that are being received or wait for the runtime."""
    header_max_bytes: int = 16 * 1024
    """Request line and headers together."""
    queue_max_requests: int = 64
    """Inferences that wait or run; one more gets 503."""
    connections_max: int = 256
    """Open connections; more wait in the kernel until one closes."""
    request_timeout_s: float = 60.0
    """From a request's first byte to its last, and for a client to take its answer."""
    idle_timeout_s: float = 300.0
    """A connection on which nothing is asked."""
    linger_s: float = 2.0
    """How long the end of a connection waits for the client's own end, so that the last answer arrives."""
    sweep_interval_s: float = 1.0
    """How often time-outs are looked at."""
