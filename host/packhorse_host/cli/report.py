"""`packhorse report`: what the fleet measured."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from packhorse_host.cli.complete import models
from packhorse_host.cli.output import JsonOption, WorkspaceOption, print_json, print_table

if TYPE_CHECKING:
    from packhorse_host.telemetry.query import ReleaseFigures

_HEADERS = (
    "model",
    "version",
    "profile",
    "devices",
    "requests",
    "errors",
    "rejected",
    "p50 µs",
    "p95 µs",
    "p99 µs",
    "energy per inference",
)


def report(
    model: Annotated[str | None, typer.Option(help="This model only.", autocompletion=models)] = None,
    since: Annotated[str | None, typer.Option(help="The last 1h, 2d and so on; default: all.")] = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show latency, errors and energy of each release on each profile, over the whole fleet.

    Errors are requests that failed on the device; rejected are those whose content it could not take.

    \b
    Examples:
      packhorse report
      packhorse report --model detector --since 24h --json
    """
    from packhorse_host.fleet.opened import open_fleet
    from packhorse_host.fleet.phases import parse_duration_s
    from packhorse_host.telemetry.ingest import load_drops
    from packhorse_host.telemetry.query import release_figures

    since_unix_s = int(time.time() - parse_duration_s(since)) if since else 0
    with open_fleet(workspace) as fleet, fleet.database.transaction() as connection:
        figures = release_figures(connection, model=model, since_unix_s=since_unix_s)
        drops = load_drops(connection)
    dropped = [
        {"device": device, "cause": cause, "reports": count}
        for (device, cause), count in sorted(drops.items())
    ]
    if as_json:
        print_json({"releases": figures, "dropped_reports": dropped})
        return
    if figures:
        print_table(_HEADERS, [_row(one) for one in figures])
    else:
        typer.echo(_nothing(model, since), err=True)
    for one in dropped:
        typer.echo(f"{one['device']}: {one['reports']} reports dropped, {one['cause']}", err=True)


def _nothing(model: str | None, since: str | None) -> str:
    """Why the table is empty, in words."""
    what = f"of {model} " if model else ""
    when = f"in the last {since}" if since else "yet"
    return f"no device has reported figures {what}{when}; they come once a device serves what was rolled out"


def _row(one: ReleaseFigures) -> tuple[str, ...]:
    energy = one.energy_per_inference_uj
    return (
        one.model,
        one.version,
        f"{one.profile} (simulated)" if one.simulated else one.profile,
        str(one.devices),
        str(one.requests),
        str(one.errors),
        str(one.rejected_requests),
        _number(one.latency_p50_us),
        _number(one.latency_p95_us),
        _number(one.latency_p99_us),
        f"none: {one.energy_reason}" if energy is None else f"{energy:.0f} µJ",
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
