"""Subcommands that are imported when they run, so that `packhorse --help` stays quick.

Each command lives in its own module of this package and is listed in `app.COMMANDS`. The module exposes one
attribute: a function with Typer annotations (one command), or a `typer.Typer` (a group of commands). The
top-level help needs the one-line help from the list only.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True)
class CommandEntry:
    """Where a command is, and what the top-level help says of it."""

    name: str
    module: str
    attribute: str
    help: str


class _Unloaded(TyperCommand):
    """Stands in for a command in listings; never run."""

    def __init__(self, entry: CommandEntry) -> None:
        super().__init__(entry.name, help=entry.help, rich_markup_mode=None)
        self.entry = entry


def lazy_group(entries: Iterable[CommandEntry]) -> type[TyperGroup]:
    """A group class for `typer.Typer(cls=...)` whose commands are imported when they are named."""

    class LazyGroup(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            for entry in entries:
                self.add_command(_Unloaded(entry))

        def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
            name, command, rest = super().resolve_command(ctx, args)
            if isinstance(command, _Unloaded):
                command = load_command(command.entry)
            return name, command, rest

    return LazyGroup


def load_command(entry: CommandEntry) -> Any:
    """Import a command: a function is wrapped, a `typer.Typer` taken as it is.

    Raises:
        ModuleNotFoundError, AttributeError: the list and the modules disagree.
    """
    found = getattr(importlib.import_module(entry.module), entry.attribute)
    if isinstance(found, typer.Typer):
        return _named(found, entry)
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(entry.name)(found)
    return _named(single, entry)


def _named(app: typer.Typer, entry: CommandEntry) -> Any:
    command = typer.main.get_command(app)
    command.name = entry.name
    command.short_help = entry.help
    return command
