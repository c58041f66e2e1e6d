"""`packhorse device`: enrol, list, show and remove."""

from __future__ import annotations

import getpass
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from packhorse_host.cli.complete import device_ids
from packhorse_host.cli.output import (
    JsonOption,
    WorkspaceOption,
    print_json,
    print_table,
    warn_without_controller,
    why_text,
)

if TYPE_CHECKING:
    from packhorse_agent.contract.messages import DeploymentReport
    from packhorse_host.fleet.devices import DeviceRecord
    from packhorse_host.telemetry.query import ReleaseFigures

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

DeviceArgument = Annotated[str, typer.Argument(help="The device's name.", autocompletion=device_ids)]


@app.command()
def enroll(
    request: Annotated[Path, typer.Argument(help="What `packhorse-agent request` wrote.")],
    tag: Annotated[
        list[str] | None, typer.Option(help="A tag for selectors; may be repeated. Without, the tags stay.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: DEVICE.enrolment.json")
    ] = None,
    replace_key: Annotated[
        bool,
        typer.Option("--replace-key", help="The device lost its key: take the new one, refuse the old one."),
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Take a device into the fleet, and write the file that `packhorse-agent accept` takes.

    The file holds the device's password for the broker: carry it over a safe way and remove it.
    With --replace-key a device that lost its state folder comes back under its name. See to it that the
    request is the device's own: whoever holds the new key is the device from then on.

    \b
    Examples:
      packhorse device enroll camera-7.request.json --tag canary
      packhorse device enroll camera-7.request.json --replace-key
    """
    from packhorse_agent.store.durable import write_durable
    from packhorse_host.fleet.enrol import enrol_device, read_signing_request
    from packhorse_host.fleet.opened import open_fleet

    checked = read_signing_request(request)
    with open_fleet(workspace) as fleet:
        enrolment = enrol_device(fleet, checked, tag, getpass.getuser(), time.time(), replace_key=replace_key)
    path = output or Path(f"{checked.device_id}.enrolment.json")
    write_durable(path, enrolment.model_dump_json().encode(), mode=0o600)
    typer.echo(f"{path}: enrolment of {checked.device_id} as {checked.profile}", err=True)


@app.command()
def remove(device_id: DeviceArgument, workspace: WorkspaceOption = None) -> None:
    """Take a device out of the fleet: the broker shuts it out, no rollout selects it, its history stays.

    What it serves it goes on serving, until somebody stops its agent.

    \b
    Example:
      packhorse device remove camera-7
    """
    from packhorse_host.fleet.enrol import expel_device
    from packhorse_host.fleet.opened import open_fleet

    with open_fleet(workspace) as fleet:
        removed = expel_device(fleet, device_id, getpass.getuser(), time.time())
        external = fleet.workspace.settings.broker.kind == "external"
    typer.echo(f"{device_id} {'is removed' if removed else 'was removed before'}", err=True)
    if external:
        typer.echo(f"the broker runs by itself: remove the account {device_id} there too", err=True)


@app.command("list")
def list_(
    removed: Annotated[bool, typer.Option("--removed", help="Also those that were removed.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List all devices with what they serve.

    \b
    Example:
      packhorse device list -w fleet --json
    """
    from packhorse_host.fleet.devices import load_devices
    from packhorse_host.fleet.opened import open_fleet

    with open_fleet(workspace) as fleet, fleet.database.transaction() as connection:
        devices = load_devices(connection, with_removed=removed)
        warn_without_controller(fleet.workspace, "devices are shown as it left them")
    if as_json:
        print_json(devices)
        return
    if not devices:
        typer.echo("no device is enrolled yet; see `packhorse device enroll --help`", err=True)
        return
    rows = [(one.device_id, _profile(one), _link(one), ", ".join(one.tags), _slots(one)) for one in devices]
    print_table(("device", "profile", "link", "tags", "serves"), rows)


@app.command()
def show(
    device_id: DeviceArgument,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a device's inventory, its latest deployments and what it measured.

    \b
    Example:
      packhorse device show camera-7
    """
    from packhorse_host.fleet.database import load_rollouts
    from packhorse_host.fleet.devices import load_device, load_history
    from packhorse_host.fleet.opened import open_fleet
    from packhorse_host.telemetry.query import release_figures

    with open_fleet(workspace) as fleet, fleet.database.transaction() as connection:
        device = load_device(connection, device_id)
        history = load_history(connection, device_id)
        ended = {one.spec.id: one.reason for one in load_rollouts(connection) if one.has_ended}
        figures = release_figures(connection, device_id=device_id)
        warn_without_controller(fleet.workspace, "devices are shown as it left them")
    if as_json:
        print_json({**device.model_dump(mode="json"), "history": history, "figures": figures})
        return
    _print_device(device)
    rows = [
        (
            _time(one.at_unix_ms / 1000),
            one.slot,
            f"{one.model} {one.version}",
            one.state.value,
            _why(one, ended),
        )
        for one in history
    ]
    print_table(("at", "slot", "release", "state", "detail"), rows)
    for one in figures:
        typer.echo(_measured(one))


def _why(report: DeploymentReport, ended: Mapping[str, str]) -> str:
    return why_text(report.state, report.reason, report.detail, ended.get(report.rollout_id, ""))


def _measured(one: ReleaseFigures) -> str:
    counts = f"{one.requests} requests, {one.errors} errors, {one.rejected_requests} rejected"
    text = f"{one.model} {one.version}: {counts}"
    if one.latency_p50_us is None or one.latency_p95_us is None:
        return text
    return f"{text}, p50 {one.latency_p50_us:.0f} µs, p95 {one.latency_p95_us:.0f} µs"


def _print_device(device: DeviceRecord) -> None:
    typer.echo(f"{device.device_id}: {_profile(device)}, {_link(device)}")
    typer.echo(f"tags: {', '.join(device.tags) or 'none'}")
    inventory = device.inventory
    if inventory is None:
        typer.echo("it has not reported yet")
        return
    runtimes = ", ".join(f"{name} {version}" for name, version in sorted(inventory.runtimes.items()))
    power = ", ".join(inventory.power_sources) or f"none: {inventory.power_reason}"
    typer.echo(f"{inventory.cpu_model}, {inventory.cpu_count} cores, {inventory.memory_bytes // 2**20} MiB")
    typer.echo(f"runtimes: {runtimes or 'none'}; power: {power}")
    typer.echo(f"serves: {_slots(device) or 'nothing'}")


def _link(device: DeviceRecord) -> str:
    if device.removed_unix_s is not None:
        return f"removed {_time(device.removed_unix_s)}"
    return "online" if device.online else "offline"


def _profile(device: DeviceRecord) -> str:
    return f"{device.profile} (simulated)" if device.simulated else device.profile


def _slots(device: DeviceRecord) -> str:
    slots = device.inventory.slots if device.inventory else ()
    return ", ".join(f"{one.slot}={one.model} {one.version}" for one in slots if one.model)


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
