"""What a worker counts."""

from __future__ import annotations

import os
import resource
import time
from http import HTTPStatus
from pathlib import Path

from packhorse_agent.contract.messages import sketch_to_text
from packhorse_agent.contract.sketch import LatencySketch
from packhorse_agent.serve.protocol import WorkerStats


class InferenceStats:
    """Requests, their outcomes and latencies since they were last taken; used on the loop only."""

    def __init__(self) -> None:
        self._reset()

    def count(self, status: HTTPStatus, runtime_us: float | None) -> None:
        """Count one inference by its answer, and the time inside the runtime when it got there."""
        self._requests += 1
        self._errors += status >= HTTPStatus.INTERNAL_SERVER_ERROR
        self._rejected_requests += HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
        if runtime_us is not None:
            self._latency.add(runtime_us)

    def take(self) -> WorkerStats:
        """The counts, which begin anew, and what the process uses."""
        stats = WorkerStats(
            requests=self._requests,
            errors=self._errors,
            rejected_requests=self._rejected_requests,
            latency_us=sketch_to_text(self._latency),
            cpu_seconds=time.process_time(),
            rss_bytes=_resident_bytes(),
        )
        self._reset()
        return stats

    def _reset(self) -> None:
        self._requests = 0
        self._errors = 0
        self._rejected_requests = 0
        self._latency = LatencySketch()


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
