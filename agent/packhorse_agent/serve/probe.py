"""The probe: golden vectors replayed on this hardware and judged by the manifest's limits."""

from __future__ import annotations

import time
from collections.abc import Callable

from packhorse_agent.contract.manifest import Manifest
from packhorse_agent.contract.messages import ProbeResult
from packhorse_agent.errors import AgentError
from packhorse_agent.runtime.base import Session
from packhorse_agent.runtime.golden import GoldenVectors, compare, failed_probe, replay


def probe(
    session: Session,
    golden: GoldenVectors,
    manifest: Manifest,
    clock: Callable[[], float] = time.perf_counter,
) -> ProbeResult:
    """Replay and judge; a runtime that fails on a vector fails the probe."""
    try:
        answer = replay(session.run, session.inputs, golden, clock)
    except AgentError as error:
        return failed_probe(str(error), golden.count)
    return compare(golden, answer, manifest.probe, manifest.outputs)
