"""What the fleet measured, by release and profile."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from sqlalchemy import Connection, select

from packhorse_agent.contract.base import WireDocument, version_key
from packhorse_agent.contract.messages import TelemetryWindow, sketch_from_text
from packhorse_agent.contract.sketch import merged
from packhorse_host.fleet import schema


class ReleaseFigures(WireDocument):
    """One release on one profile, over all its devices and windows; real and simulated never mix."""

    model: str
    version: str
    profile: str
    simulated: bool
    devices: int
    windows: int
    requests: int
    errors: int
    """Requests that failed on the devices."""
    rejected_requests: int
    """Requests that were refused because of what clients sent."""
    latency_p50_us: float | None
    latency_p95_us: float | None
    latency_p99_us: float | None
    energy_per_inference_uj: float | None
    """Energy over the inferences of those windows that tell both; None when there are none."""
    energy_reason: str
    """Why there is no energy figure; empty when there is one."""
    temperature_max_c: float | None
    dropped_windows: int
    """Windows that devices gave up while they were offline."""


def release_figures(
    connection: Connection, model: str | None = None, device_id: str | None = None, since_unix_s: int = 0
) -> list[ReleaseFigures]:
    """Merge windows from `since_unix_s` on, of one model or device where named."""
    table = schema.windows
    order = (table.c.model, table.c.version, table.c.profile, table.c.simulated)
    query = select(*order, table.c.device_id, table.c.window).where(table.c.start_unix_s >= since_unix_s)
    if model is not None:
        query = query.where(table.c.model == model)
    if device_id is not None:
        query = query.where(table.c.device_id == device_id)
    rows = connection.execute(query.order_by(*order))
    groups = groupby(rows, key=lambda row: tuple(row[:4]))
    found = [
        _figures(profile, [(row.device_id, TelemetryWindow.model_validate_json(row.window)) for row in group])
        for (_, _, profile, _), group in groups
    ]
    return sorted(found, key=lambda one: (one.model, version_key(one.version), one.profile, one.simulated))


def _figures(profile: str, found: list[tuple[str, TelemetryWindow]]) -> ReleaseFigures:
    windows = [window for _, window in found]
    sketch = merged(sketch_from_text(window.latency_us) for window in windows)
    energy_uj, reason = _energy(windows)
    temperatures = [window.temperature_c for window in windows if window.temperature_c is not None]
    return ReleaseFigures(
        model=windows[0].model,
        version=windows[0].version,
        profile=profile,
        simulated=windows[0].simulated,
        devices=len({device for device, _ in found}),
        windows=len(windows),
        requests=sum(window.requests for window in windows),
        errors=sum(window.errors for window in windows),
        rejected_requests=sum(window.rejected_requests for window in windows),
        latency_p50_us=sketch.quantile_us(0.5),
        latency_p95_us=sketch.quantile_us(0.95),
        latency_p99_us=sketch.quantile_us(0.99),
        energy_per_inference_uj=energy_uj,
        energy_reason=reason,
        temperature_max_c=max(temperatures, default=None),
        dropped_windows=sum(window.dropped_windows for window in windows),
    )


def _energy(windows: Iterable[TelemetryWindow]) -> tuple[float | None, str]:
    energy_uj, inferences, reasons = 0.0, 0, dict[str, None]()
    for window in windows:
        count = sketch_from_text(window.latency_us).count
        if window.energy is None or window.energy_reason:  # several models ran: nobody's own
            reasons[window.energy_reason] = None
        elif count:
            energy_uj += window.energy.energy_uj
            inferences += count
    if inferences:
        return energy_uj / inferences, ""
    return None, "; ".join(reasons) or "no requests in any window with an energy figure"
