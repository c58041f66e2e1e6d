"""What came of it: one row a device, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class DeviceRow:
    """One device at the end. Accuracies in percent, `accuracy` measured through the device's endpoint."""

    id: str
    profile: str
    simulated: bool
    release: str
    recipe: str
    state: str
    accuracy_fp32: float
    accuracy: float
    size_fp32_bytes: int
    size_bytes: int
    latency_p50_us: float | None
    latency_p95_us: float | None
    latency_p99_us: float | None
    requests: int
    energy_per_inference_uj: float | None
    energy_reason: str

    def as_json(self) -> dict[str, Any]:
        """All fields as plain data."""
        return asdict(self)


def print_rows(rows: list[DeviceRow]) -> None:
    """Print one block a device: a table as wide as a terminal cannot hold all of it side by side."""
    console = Console(highlight=False)
    table = Table(title="What the fleet runs", show_lines=True)
    for header in ("", *(row.id for row in rows)):
        table.add_column(header, overflow="fold")
    for name, cells in _lines(rows):
        table.add_row(name, *cells)
    console.print(table)


def _lines(rows: list[DeviceRow]) -> list[tuple[str, list[str]]]:
    return [
        ("profile", [f"{row.profile}{' (simulated)' if row.simulated else ''}" for row in rows]),
        ("release", [f"{row.release}, {row.state}" for row in rows]),
        ("recipe", [row.recipe for row in rows]),
        ("accuracy FP32 → here", [f"{row.accuracy_fp32:.2f} % → {row.accuracy:.2f} %" for row in rows]),
        ("size FP32 → here", [f"{_kib(row.size_fp32_bytes)} → {_kib(row.size_bytes)} KiB" for row in rows]),
        ("latency p50 / p95 / p99", [_latency(row) for row in rows]),
        ("energy per inference", [_energy(row) for row in rows]),
    ]


def _latency(row: DeviceRow) -> str:
    if row.latency_p50_us is None or row.latency_p95_us is None or row.latency_p99_us is None:
        return "not reported"
    return f"{row.latency_p50_us:.0f} / {row.latency_p95_us:.0f} / {row.latency_p99_us:.0f} µs"


def _energy(row: DeviceRow) -> str:
    if row.energy_per_inference_uj is None:
        return f"none: {row.energy_reason}"
    return f"{row.energy_per_inference_uj:.0f} µJ"


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / 1024:.0f}"
