"""Evidence and measurements as people read them, alike in every command."""

from __future__ import annotations

from packhorse_agent.contract.manifest import Evidence, Interval, Quality, TensorSpec
from packhorse_agent.contract.measurement import LatencySummary, Measurement
from packhorse_host.evaluate.metrics.registry import metric_title

UNKNOWN = "–"
_UNITS = {"percent": "%", "db": "dB"}


def metric_text(quality: Quality) -> str:
    """The metric with its unit: `top-1 %`."""
    return f"{metric_title(quality.metric)} {_UNITS.get(quality.unit, quality.unit)}"


def interval_text(value: float, interval: Interval) -> str:
    """A figure with its interval: `0.20 (-0.10 to 0.50)`."""
    return f"{value:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def score_text(evidence: Evidence) -> str:
    """Accuracy before and after: `93.35 → 93.55`."""
    quality = evidence.quality
    return f"{quality.fp32:.2f} → {quality.quantized:.2f}" if quality else UNKNOWN


def drop_text(evidence: Evidence) -> str:
    """What was lost, in points, with its interval: `0.20 (-0.10 to 0.50)`."""
    if evidence.quality is None:
        return UNKNOWN
    return interval_text(evidence.quality.drop_points, evidence.quality.drop_ci95_points)


def size_text(evidence: Evidence) -> str:
    """Model size before and after in KiB: `135 → 65 KiB`."""
    return f"{evidence.size_fp32_bytes / 1024:.0f} → {evidence.size_bytes / 1024:.0f} KiB"


def kernels_text(evidence: Evidence) -> str:
    """Integer kernels of all that compute: `24 of 24`."""
    return f"{evidence.integer_kernels} of {evidence.compute_kernels}"


def speed_text(measurement: Measurement) -> str:
    """Speed-up with its interval, marked where it does not hold for the profile: `3.0x (2.9 to 3.1)`."""
    interval = measurement.speedup_ci95
    text = f"{measurement.speedup:.2f}x ({interval.low:.2f} to {interval.high:.2f})"
    return text if measurement.verified else f"{text} unverified: {measurement.machine.architecture}"


def latency_text(latency: LatencySummary) -> str:
    """Quantiles in microseconds: `p50 120 us, p95 130 us, p99 150 us of 300`."""
    quantiles = (latency.latency_p50_us, latency.latency_p95_us, latency.latency_p99_us)
    texts = [f"{name} {value:.0f} us" for name, value in zip(("p50", "p95", "p99"), quantiles, strict=True)]
    return f"{', '.join(texts)} of {latency.inferences}"


def tensor_text(spec: TensorSpec) -> str:
    """Name, datatype and shape, `*` for any length: `image FP32 [*, 1, 28, 28]`."""
    shape = ", ".join("*" if axis == -1 else str(axis) for axis in spec.shape)
    return f"{spec.name} {spec.datatype} [{shape}]"
