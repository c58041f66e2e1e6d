"""What a shell offers for a value: names out of the workspace and of the profiles that come along.

A completion never fails: where nothing can be read, nothing is offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from packhorse_agent.errors import AgentError

if TYPE_CHECKING:
    from packhorse_host.fleet.opened import OpenedFleet
    from packhorse_host.repository import ReleaseInfo

Complete = Callable[[typer.Context, str], list[str]]
"""For `autocompletion=` of an argument or option."""


def _offered(names: Callable[[typer.Context], Iterable[str]]) -> Complete:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        try:
            return sorted({name for name in names(ctx) if name.startswith(incomplete)})
        except (AgentError, OSError):
            return []

    complete.__doc__ = names.__doc__
    return complete


@_offered
def profile_names(_: typer.Context) -> Iterable[str]:
    """Profiles that come along."""
    from packhorse_agent.profiles import builtin_profiles

    return builtin_profiles()


@_offered
def device_ids(ctx: typer.Context) -> Iterable[str]:
    """Devices of the fleet."""
    from packhorse_host.fleet.devices import load_devices

    with _fleet(ctx) as fleet, fleet.database.transaction() as connection:
        return [one.device_id for one in load_devices(connection)]


@_offered
def slots(ctx: typer.Context) -> Iterable[str]:
    """Slots that devices have reported."""
    from packhorse_host.fleet.devices import load_devices

    with _fleet(ctx) as fleet, fleet.database.transaction() as connection:
        inventories = [one.inventory for one in load_devices(connection)]
    return [slot.slot for inventory in inventories if inventory for slot in inventory.slots]


@_offered
def rollout_ids(ctx: typer.Context) -> Iterable[str]:
    """Rollouts of the fleet."""
    from packhorse_host.fleet.database import load_rollouts

    with _fleet(ctx) as fleet, fleet.database.transaction() as connection:
        return [one.spec.id for one in load_rollouts(connection)]


@_offered
def models(ctx: typer.Context) -> Iterable[str]:
    """Published models."""
    return [one.model for one in _releases(ctx)]


@_offered
def versions(ctx: typer.Context) -> Iterable[str]:
    """Published versions, of the model that was named before where one was."""
    model = ctx.params.get("model")
    return [one.version for one in _releases(ctx) if model in (None, one.model)]


@_offered
def recipes(ctx: typer.Context) -> Iterable[str]:
    """Recipes of what is published."""
    return [one.recipe for one in _releases(ctx)]


@_offered
def trust_roles(ctx: typer.Context) -> Iterable[str]:
    """TUF roles, and `online` for all online ones."""
    with _fleet(ctx) as fleet:
        return ["online", *(one.role for one in fleet.repository.standings())]


def _releases(ctx: typer.Context) -> list[ReleaseInfo]:
    with _fleet(ctx) as fleet:
        return fleet.repository.releases()


@contextmanager
def _fleet(ctx: typer.Context) -> Iterator[OpenedFleet]:
    from packhorse_host.fleet.opened import open_fleet

    named: Any = ctx.params.get("workspace")
    with open_fleet(Path(named) if named else None) as fleet:
        yield fleet
