"""What every command prints alike: JSON for programs, tables for people; and the options for both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

if TYPE_CHECKING:
    from packhorse_agent.contract.states import DeploymentState, FailureReason
    from packhorse_host.workspace import Workspace

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs on standard output.")]
"""`as_json: JsonOption = False` in a command's signature."""

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        "-w",
        envvar="PACKHORSE_WORKSPACE",
        help="The workspace; by default the one around the current folder.",
        show_default=False,
    ),
]
"""`workspace: WorkspaceOption = None` in a command's signature."""


def warn_without_controller(workspace: Workspace, consequence: str) -> None:
    """Say on standard error what follows from no controller running; nothing where one does."""
    from packhorse_host.fleet.presence import controller_runs

    if not controller_runs(workspace):
        typer.echo(f"warning: no controller runs on this workspace: {consequence}", err=True)


def print_json(value: BaseModel | Sequence[BaseModel] | dict[str, Any] | list[Any]) -> None:
    """Print one JSON document on standard output; models may stand anywhere in `value`."""
    typer.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output; as wide as its content where that is not a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000, color_system=None)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(_escaped(cell) for cell in row))
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as text:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in text.get().splitlines()))


def why_text(
    state: DeploymentState, reason: FailureReason | None, detail: str, rollout_ended: str = ""
) -> str:
    """Why a deployment is where it is; `rollout_ended` says why its rollout has ended, if it has."""
    # A device that is idle again was taken back, and does not know why.
    parts = [reason.value if reason else "", detail, rollout_ended if state.value == "idle" else ""]
    return ": ".join(part for part in parts if part)


def _escaped(cell: str) -> Any:
    from rich.text import Text

    return Text(cell)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value
