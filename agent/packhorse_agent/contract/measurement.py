"""Latency measured for a bundle: an artifact of its own, since it holds only where it was measured."""

from __future__ import annotations

from typing import Literal

from packhorse_agent.contract.base import Sha256Hex, WireDocument
from packhorse_agent.contract.manifest import Interval


class Machine(WireDocument):
    """What a measured latency depends on."""

    architecture: str
    cpu_model: str
    cpu_features: tuple[str, ...]
    runtime: str
    runtime_version: str
    threads: int


class LatencySummary(WireDocument):
    """Quantiles of single inferences."""

    latency_p50_us: float
    latency_p95_us: float
    latency_p99_us: float
    inferences: int


class Measurement(WireDocument):
    """FP32 and the bundle's model, timed in interleaved pairs on one machine."""

    format: Literal[1] = 1
    manifest_sha256: Sha256Hex
    machine: Machine
    fp32: LatencySummary
    bundle: LatencySummary
    speedup: float
    """Median FP32 latency divided by median bundle latency: above 1 the bundle is faster."""
    speedup_ci95: Interval
    verified: bool
    """The machine has the architecture of the bundle's profile and the bundle's runtime; otherwise the
    figures are only shown."""
