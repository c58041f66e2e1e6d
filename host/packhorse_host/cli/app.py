"""The entry point of `packhorse`: the list of commands, and errors as exit codes.

A command is a module of this package named in `COMMANDS` (see `lazy`). It imports what is heavy inside its
functions, prints results on standard output and everything else on standard error, and raises the errors of
`packhorse_host.errors`: `main` prints `error: TEXT` and exits with the error's code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from packhorse_agent import __version__
from packhorse_agent.exits import end_with_exit_code
from packhorse_host.cli.lazy import CommandEntry, lazy_group

_CLI = "packhorse_host.cli"

COMMANDS: tuple[CommandEntry, ...] = (
    CommandEntry("pack", f"{_CLI}.pack", "pack", "Quantize a model for device profiles, as bundles."),
    CommandEntry("evaluate", f"{_CLI}.evaluate", "evaluate", "Score a model, or what a quantized one loses."),
    CommandEntry("inspect", f"{_CLI}.inspect", "inspect", "Check a bundle and show what is in it."),
    CommandEntry("profile", f"{_CLI}.profile", "app", "List, show and check device profiles."),
    CommandEntry("init", f"{_CLI}.init", "init", "Make a workspace: keys, repository, configuration."),
    CommandEntry("publish", f"{_CLI}.publish", "publish", "Sign bundles into the workspace's repository."),
    CommandEntry("trust", f"{_CLI}.trust", "app", "Show, renew and replace signatures and keys."),
    CommandEntry("device", f"{_CLI}.device", "app", "Enroll, list, show and remove devices."),
    CommandEntry("rollout", f"{_CLI}.rollout", "app", "Start, watch, pause and abort rollouts."),
    CommandEntry("serve", f"{_CLI}.serve", "serve", "Run the controller of a fleet."),
    CommandEntry("report", f"{_CLI}.report", "report", "Show what the fleet measures."),
    CommandEntry("doctor", f"{_CLI}.doctor", "doctor", "Look a workspace over, and say what to mend."),
)
"""In the order of the way of a bundle."""

_HELP = """Carry INT8 models to where the roads end.

Quantize a model once for each device profile, sign the bundles, deliver them over MQTT, and see how they do.

\b
Examples:
  packhorse pack model.onnx --name detector --version 1.0 --profile raspberry-pi-5
  packhorse init fleet && packhorse publish -w fleet bundles/detector-1.0-*
  packhorse rollout start -w fleet --help
"""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"packhorse {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="packhorse",
    cls=lazy_group(COMMANDS),
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _packhorse(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; always ends in `SystemExit` with an `ExitCode`."""
    given = list(arguments) if arguments is not None else None
    end_with_exit_code(lambda: app(given, prog_name="packhorse"))
