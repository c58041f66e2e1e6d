"""The command line of the agent; `run` becomes the supervisor, everything else asks or prepares it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.exits import end_with_exit_code

_HELP = """Run INT8 models on this device, and keep them as the fleet wants them.

\b
Examples:
  packhorse-agent detect
  packhorse-agent request --config agent.toml --output request.json
  packhorse-agent accept --config agent.toml enrolment.json
  packhorse-agent run --config agent.toml
  packhorse-agent status --config agent.toml
"""

app = typer.Typer(
    name="packhorse-agent",
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="PACKHORSE_AGENT_CONFIG", help="The agent's configuration (TOML)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs on standard output.")]


class LogLevel(str, Enum):
    """How much the agent says."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@app.command()
def run(
    config: ConfigOption,
    log_level: Annotated[LogLevel, typer.Option(help="What is logged, on standard error.")] = LogLevel.INFO,
) -> None:
    """Run the agent until SIGTERM or Ctrl-C.

    \b
    Example:
      packhorse-agent run -c agent.toml
    """
    # Becoming another program drops this one's imports: the supervisor stays small.
    module = [sys.executable, "-m", "packhorse_agent.service"]
    os.execv(sys.executable, [*module, str(config), log_level.value])  # noqa: S606


@app.command()
def detect(as_json: JsonOption = False) -> None:
    """Say which profile fits this machine; the configuration decides.

    \b
    Example:
      packhorse-agent detect
    """
    from packhorse_agent.machine import device_tree_model, machine_facts
    from packhorse_agent.profiles import detect_profile

    facts, found = machine_facts(), detect_profile()
    if as_json:
        _print_json({"profile": found, "architecture": facts.architecture, "model": device_tree_model()})
    elif found:
        typer.echo(found)
    else:
        typer.echo(f"no profile fits {facts.architecture}, {facts.operating_system}", err=True)
        raise typer.Exit(ExitCode.NOT_FOUND)


@app.command()
def request(
    config: ConfigOption,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file; else standard output.")
    ] = None,
) -> None:
    """Make this device's key and a signed request to be enrolled; hand it to `packhorse device enroll`.

    \b
    Example:
      packhorse-agent request -c agent.toml -o request.json
    """
    from packhorse_agent.config import load_config, load_configured_profile
    from packhorse_agent.joining import request_enrolment

    settings = load_config(config)
    profile = load_configured_profile(settings).name
    text = request_enrolment(settings.state_folder, settings.device_id, profile).model_dump_json()
    if output is None:
        typer.echo(text)
    else:
        output.write_text(text + "\n")
        typer.echo(f"{output}: request of {settings.device_id} for {profile}", err=True)


@app.command()
def accept(
    enrolment: Annotated[Path, typer.Argument(help="What `packhorse device enroll` wrote.")],
    config: ConfigOption,
) -> None:
    """Take the enrolment in; the device belongs to the fleet from its next start.

    \b
    Example:
      packhorse-agent accept -c agent.toml camera-7.enrolment.json
    """
    from packhorse_agent.config import load_config
    from packhorse_agent.joining import accept_enrolment

    settings = load_config(config)
    accepted = accept_enrolment(settings.state_folder, enrolment, settings.device_id)
    typer.echo(f"{accepted.device_id} belongs to the fleet {accepted.fleet}", err=True)


@app.command()
def status(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Show what the running agent serves, brings in and reports.

    \b
    Example:
      packhorse-agent status -c agent.toml --json
    """
    answer = _ask(config, "status")
    if as_json:
        _print_json(answer)
        return
    simulated = ", hardware simulated" if answer["simulated"] else ""
    link = "connected" if answer["connected"] else "not connected"
    typer.echo(f"{answer['device_id']} of {answer['fleet']}: {answer['profile']}{simulated}, {link}")
    if answer["metadata_problem"]:
        typer.echo(f"metadata: {answer['metadata_problem']}")
    for slot in answer["slots"]:
        typer.echo(_slot_line(slot))


@app.command()
def rollback(
    slot: Annotated[str, typer.Argument(help="The slot to take back.")], config: ConfigOption
) -> None:
    """Go back to the bundle that the slot served before.

    \b
    Example:
      packhorse-agent rollback detector -c agent.toml
    """
    answer = _ask(config, "rollback", slot)
    typer.echo(f"{answer['slot']} goes back to {answer['returns_to']}", err=True)


@app.command()
def doctor(config: ConfigOption, as_json: JsonOption = False) -> None:
    """Check configuration, enrolment, broker, runtimes, storage and power sources, and say what to do.

    \b
    Example:
      packhorse-agent doctor -c agent.toml
    """
    from packhorse_agent.supervisor.doctor import examine

    checks = examine(config)
    if as_json:
        _print_json([check.model_dump() for check in checks])
    else:
        for check in checks:
            typer.echo(f"{check.verdict:8} {check.what}: {check.detail}")
    if any(check.verdict == "problem" for check in checks):
        raise typer.Exit(ExitCode.ENVIRONMENT)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; always ends in `SystemExit` with an `ExitCode`."""
    given = list(arguments) if arguments is not None else None
    end_with_exit_code(lambda: app(given, prog_name="packhorse-agent"))


def _ask(config: Path, command: str, slot: str = "") -> dict[str, Any]:
    from packhorse_agent.config import load_config
    from packhorse_agent.control import CONTROL_SOCKET, ControlRequest, ask

    path = load_config(config).state_folder / CONTROL_SOCKET
    return ask(path, ControlRequest.model_validate({"command": command, "slot": slot}))


def _slot_line(slot: dict[str, Any]) -> str:
    serves = f"serves {slot['model']} {slot['version']}" if slot["serving"] else "serves nothing"
    line = f"  {slot['slot']}: {serves} at {slot['endpoint']}"
    deployment = slot["deployment"]
    if deployment:
        why = f" ({deployment['reason']}: {deployment['detail']})" if deployment["reason"] else ""
        line += f"; {deployment['attempt']['version']} is {deployment['state']}{why}"
    return line


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
