"""`packhorse doctor`: look a workspace over."""

from __future__ import annotations

from typing import Annotated

import typer

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_host.cli.output import JsonOption, WorkspaceOption, print_json, print_table


def doctor(
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every published file and compare its digest.")
    ] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check disk, keys, repository, signatures, database, controller and broker, and say what to do.

    Nothing is changed. The exit code is 6 when there is a problem; notes are no problem.

    \b
    Examples:
      packhorse doctor -w fleet
      packhorse doctor --deep --json
    """
    from packhorse_agent.trust.clock import utc_now
    from packhorse_host.fleet.doctor import examine

    checks = examine(workspace, utc_now(), deep=deep)
    if as_json:
        print_json(checks)
    else:
        print_table(("verdict", "what", "detail"), [(one.verdict, one.what, one.detail) for one in checks])
    if any(one.verdict == "problem" for one in checks):
        raise typer.Exit(ExitCode.ENVIRONMENT)
