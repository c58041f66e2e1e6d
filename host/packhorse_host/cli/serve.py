"""`packhorse serve`: the controller in the foreground."""

from __future__ import annotations

from typing import Annotated

import typer

from packhorse_host.cli.output import JsonOption, WorkspaceOption, print_json
from packhorse_host.errors import ConfigError

_LOG_LEVELS = ("debug", "info", "warning", "error")


def serve(
    port: Annotated[
        int | None, typer.Option(help="For the broker, 0 for a free one; else the workspace's.")
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the controller of a fleet, with its broker, until SIGTERM or Ctrl-C.

    \b
    Example:
      packhorse serve --workspace fleet
    """
    import logging
    import signal

    from packhorse_host.fleet.running import run_controller

    if log_level not in _LOG_LEVELS:
        raise ConfigError(f"--log-level is one of {', '.join(_LOG_LEVELS)}, not {log_level!r}")
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with run_controller(workspace, port) as running:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: running.controller.request_stop())
        if as_json:
            print_json({"fleet": running.fleet, "host": running.endpoint.host, "port": running.endpoint.port})
        else:
            typer.echo(f"fleet {running.fleet}: broker at {running.endpoint}; Ctrl-C ends it")
        running.controller.run()
