"""An ingest over a real database, and devices that seal reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import func, select

from packhorse_agent.contract.envelope import seal
from packhorse_agent.contract.messages import Report, ReportAck, ReportItem, Stream
from packhorse_agent.contract.topics import DeviceChannel, DeviceTopic
from packhorse_agent.trust.keys import DeviceKey, make_signing_request
from packhorse_host.fleet import schema
from packhorse_host.fleet.database import Database
from packhorse_host.fleet.devices import add_device
from packhorse_host.telemetry.ingest import Ingest, load_drops
from tests.fakes.fleet import window

FLEET = "farm"


def topic(device_id: str, fleet: str = FLEET) -> DeviceTopic:
    return DeviceTopic(fleet, device_id, DeviceChannel.REPORT)


@dataclass
class Sender:
    """A device that seals what it is told to."""

    device_id: str
    key: DeviceKey

    def seal(
        self,
        sequence: int,
        *items: ReportItem,
        boot: int = 1,
        stream: Stream = "telemetry",
        device_id: str | None = None,
        fleet: str = FLEET,
    ) -> bytes:
        report = Report(
            fleet=fleet,
            device_id=device_id or self.device_id,
            stream=stream,
            boot=boot,
            sequence=sequence,
            items=items or (window(sequence),),
        )
        return seal(report, self.key.sign)


@dataclass
class Site:
    """The host's side."""

    database: Database
    ingest: Ingest
    folder: Path

    def enrol(self, device_id: str, profile: str = "raspberry-pi-5") -> Sender:
        key = DeviceKey.load_or_create(self.folder / f"{device_id}.key")
        with self.database.transaction() as connection:
            add_device(connection, make_signing_request(key, device_id, profile), [], 1.0)
        return Sender(device_id, key)

    def take(self, sender: Sender, envelope: bytes) -> ReportAck | None:
        return self.ingest.take(topic(sender.device_id), envelope)

    def starts(self) -> list[int]:
        """What tells stored windows apart, in the order in which they were stored."""
        table = schema.windows
        with self.database.transaction() as connection:
            return list(connection.scalars(select(table.c.start_unix_s / 60).order_by(table.c.id)))

    def deployments(self) -> int:
        with self.database.transaction() as connection:
            return connection.scalar(select(func.count()).select_from(schema.deployments)) or 0

    def drops(self) -> dict[tuple[str, str], int]:
        with self.database.transaction() as connection:
            return load_drops(connection)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An empty fleet."""
    database = Database(f"sqlite:///{tmp_path / 'fleet.sqlite'}")
    yield Site(database, Ingest(database, lambda: 77.0), tmp_path)
    database.close()


@pytest.fixture
def device(site: Site) -> Sender:
    """An enrolled device."""
    return site.enrol("camera.7")
