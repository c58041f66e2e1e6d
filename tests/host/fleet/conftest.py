"""A database in a folder, with devices of one's choice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from packhorse_agent.trust.keys import DeviceKey, make_signing_request
from packhorse_host.fleet.database import Database
from packhorse_host.fleet.devices import add_device
from tests.host.fleet.makers import PI

Enrol = Callable[..., DeviceKey]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The address of a database that is not made yet."""
    return f"sqlite:///{tmp_path / 'fleet.sqlite'}"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """An empty database."""
    opened = Database(url)
    yield opened
    opened.close()


@pytest.fixture
def enrol(database: Database, tmp_path: Path) -> Enrol:
    """Enrols a device with a key of its own, which it returns."""

    def one(device_id: str, *tags: str, profile: str = PI) -> DeviceKey:
        key = DeviceKey.load_or_create(tmp_path / f"{device_id}.key")
        with database.transaction() as connection:
            add_device(connection, make_signing_request(key, device_id, profile), tags, 1.0)
        return key

    return one
