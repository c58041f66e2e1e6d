"""A workspace opened for work: its repository and its database together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packhorse_host.fleet.database import Database
from packhorse_host.repository import Repository
from packhorse_host.workspace import Workspace


@dataclass(frozen=True)
class OpenedFleet:
    """What commands work on."""

    workspace: Workspace
    repository: Repository
    database: Database


@contextmanager
def open_fleet(folder: Path | None) -> Iterator[OpenedFleet]:
    """Open the workspace in `folder`, or the one around the current folder.

    Raises:
        NotFoundError: there is no workspace.
        EnvironmentFaultError: the database cannot be opened.
    """
    workspace = Workspace.find(folder)
    database = Database(workspace.database_url)
    try:
        yield OpenedFleet(workspace, workspace.repository(), database)
    finally:
        database.close()
