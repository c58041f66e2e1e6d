"""`packhorse rollout`: start, watch, pause, resume and abort."""

from __future__ import annotations

import getpass
import secrets
import time
from typing import TYPE_CHECKING, Annotated

import typer

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_host.cli.complete import models, recipes, rollout_ids, slots, versions
from packhorse_host.cli.output import (
    JsonOption,
    WorkspaceOption,
    print_json,
    print_table,
    warn_without_controller,
    why_text,
)
from packhorse_host.errors import ConfigError

if TYPE_CHECKING:
    from packhorse_host.fleet.database import Database
    from packhorse_host.fleet.model import LatestDeployment, RolloutRecord

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

_POLL_S = 0.25

RolloutArgument = Annotated[str, typer.Argument(help="The rollout's id.", autocompletion=rollout_ids)]

NO_DELIVERY = "nothing is delivered until `packhorse serve` runs"


@app.command()
def start(
    model: Annotated[str, typer.Option(help="The published model.", autocompletion=models)],
    release: Annotated[str, typer.Option(help="Its version.", autocompletion=versions)],
    slot: Annotated[str, typer.Option(help="The slot on the devices.", autocompletion=slots)],
    phase: Annotated[list[str], typer.Option(help="NAME:tag=T or NAME:share=N%, then soak= and deadline=.")],
    recipe: Annotated[
        str | None, typer.Option(help="Where a profile has bundles of several.", autocompletion=recipes)
    ] = None,
    rollout_id: Annotated[str | None, typer.Option("--id", help="A name; one is made by default.")] = None,
    max_failure_percent: Annotated[float, typer.Option(help="Of a phase's devices.")] = 0.0,
    on_failure: Annotated[str, typer.Option(help="pause, stop, cancel or revert.")] = "pause",
    approve_empty: Annotated[bool, typer.Option(help="Let phases pass that select nobody.")] = False,
    wait: Annotated[bool, typer.Option(help="Return when it has ended; fails unless it completed.")] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a published release to the fleet, phase by phase.

    \b
    Example:
      packhorse rollout start --model detector --release 1.0 --slot detector \\
        --phase canary:tag=canary,soak=10m --phase all:share=100%,soak=1h --wait
    """
    from packhorse_host.fleet.opened import open_fleet
    from packhorse_host.fleet.rollouts import choose_bundles, make_spec, start_rollout

    with open_fleet(workspace) as fleet:
        spec = make_spec(
            phases=phase,
            id=rollout_id or f"{model}-{release}-{secrets.token_hex(3)}",
            slot=slot,
            model=model,
            version=release,
            bundles=choose_bundles(fleet.repository.releases(), model, release, recipe),
            salt=secrets.token_hex(16),
            max_failure_percent=max_failure_percent,
            on_failure=on_failure,
            approve_empty=approve_empty,
        )
        with fleet.database.transaction() as connection:
            record = start_rollout(connection, spec, getpass.getuser(), time.time())
        typer.echo(f"rollout {spec.id} begins with phase {record.current_phase.name}", err=True)
        warn_without_controller(fleet.workspace, NO_DELIVERY)
        if wait:
            record = _follow(fleet.database, spec.id)
    if as_json:
        print_json(record)
    if wait and record.progress.value != "completed":
        raise typer.Exit(ExitCode.REFUSED)


@app.command("list")
def list_(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List all rollouts, oldest first.

    \b
    Example:
      packhorse rollout list --json
    """
    from packhorse_host.fleet.database import load_rollouts
    from packhorse_host.fleet.opened import open_fleet

    with open_fleet(workspace) as fleet, fleet.database.transaction() as connection:
        records = load_rollouts(connection)
    if as_json:
        print_json(records)
        return
    if not records:
        typer.echo("there is no rollout yet; see `packhorse rollout start --help`", err=True)
        return
    rows = [
        (one.spec.id, one.spec.model, one.spec.version, one.spec.slot, one.progress.value, _phase(one))
        for one in records
    ]
    print_table(("rollout", "model", "version", "slot", "progress", "phase"), rows)


@app.command()
def show(rollout_id: RolloutArgument, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Show where a rollout stands, and each device in it.

    \b
    Example:
      packhorse rollout show detector-1.0-3fa2c1
    """
    from packhorse_host.fleet.database import latest_deployments, load_rollout
    from packhorse_host.fleet.devices import load_devices
    from packhorse_host.fleet.opened import open_fleet

    with open_fleet(workspace) as fleet, fleet.database.transaction() as connection:
        record = load_rollout(connection, rollout_id)
        latest = latest_deployments(connection, rollout_id, record.generation)
        every = load_devices(connection, with_removed=True)
    removed = {one.device_id for one in every if one.removed_unix_s is not None}
    if as_json:
        print_json({**record.model_dump(mode="json"), "devices": latest})
        return
    typer.echo(f"{rollout_id}: {record.progress.value}, phase {_phase(record)}")
    if record.reason:
        typer.echo(record.reason)
    if not latest:
        typer.echo("no device has answered yet", err=True)
        return
    names = [f"{one.device_id} (removed)" if one.device_id in removed else one.device_id for one in latest]
    states = [(one.state.value, _why(one, record)) for one in latest]
    rows = [(name, state, why) for name, (state, why) in zip(names, states, strict=True)]
    print_table(("device", "state", "reason"), rows)


@app.command()
def pause(rollout_id: RolloutArgument, workspace: WorkspaceOption = None) -> None:
    """Let no further device start; those that have begun go on.

    \b
    Example:
      packhorse rollout pause detector-1.0-3fa2c1
    """
    from packhorse_host.fleet.opened import open_fleet
    from packhorse_host.fleet.rollouts import pause_rollout

    with open_fleet(workspace) as fleet, fleet.database.transaction() as connection:
        record = pause_rollout(connection, rollout_id, getpass.getuser(), time.time())
    _say(record)


@app.command()
def resume(
    rollout_id: RolloutArgument,
    approve_empty: Annotated[bool, typer.Option(help="Let phases pass that select nobody.")] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Go on with a paused rollout; devices that failed try again.

    \b
    Example:
      packhorse rollout resume detector-1.0-3fa2c1
    """
    from packhorse_host.fleet.opened import open_fleet
    from packhorse_host.fleet.rollouts import resume_rollout

    with open_fleet(workspace) as fleet, fleet.database.transaction() as connection:
        who, now_s = getpass.getuser(), time.time()
        record = resume_rollout(connection, rollout_id, who, now_s, approve_empty=approve_empty)
    _say(record)


@app.command()
def abort(
    rollout_id: RolloutArgument,
    cancel: Annotated[bool, typer.Option(help="Also give up what has not been probed yet.")] = False,
    revert: Annotated[bool, typer.Option(help="Also take every device back to what it had.")] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """End a rollout: no further device starts; with an option, undo more.

    \b
    Examples:
      packhorse rollout abort detector-1.0-3fa2c1
      packhorse rollout abort detector-1.0-3fa2c1 --revert
    """
    from packhorse_host.fleet.model import RolloutProgress
    from packhorse_host.fleet.opened import open_fleet
    from packhorse_host.fleet.rollouts import abort_rollout

    if cancel and revert:
        raise ConfigError("--cancel and --revert exclude each other")
    how = RolloutProgress.STOPPED
    if cancel or revert:
        how = RolloutProgress.CANCELLED if cancel else RolloutProgress.REVERTED
    with open_fleet(workspace) as fleet, fleet.database.transaction() as connection:
        record = abort_rollout(connection, rollout_id, how, getpass.getuser(), time.time())
    _say(record)


def _follow(database: Database, rollout_id: str) -> RolloutRecord:
    """Print each change until the rollout has ended or waits for a person."""
    from packhorse_host.fleet.database import latest_deployments, load_rollout
    from packhorse_host.fleet.model import RolloutProgress

    said = ""
    while True:
        with database.transaction() as connection:
            record = load_rollout(connection, rollout_id)
            latest = latest_deployments(connection, rollout_id, record.generation)
        states = ", ".join(_state(one, record) for one in latest) or "no device has answered"
        now = f"{record.progress.value}, phase {_phase(record)}: {states}"
        if now != said:
            typer.echo(now, err=True)
            said = now
        if record.progress is not RolloutProgress.RUNNING:
            if record.reason:
                typer.echo(record.reason, err=True)
            return record
        time.sleep(_POLL_S)


def _phase(record: RolloutRecord) -> str:
    return f"{record.current_phase.name} ({record.phase + 1} of {len(record.spec.phases)})"


def _state(one: LatestDeployment, record: RolloutRecord) -> str:
    why = _why(one, record)
    return f"{one.device_id} {one.state.value}" + (f" ({why})" if why else "")


def _why(one: LatestDeployment, record: RolloutRecord) -> str:
    return why_text(one.state, one.reason, one.detail, record.reason if record.has_ended else "")


def _say(record: RolloutRecord) -> None:
    typer.echo(f"rollout {record.spec.id} is {record.progress.value}", err=True)
