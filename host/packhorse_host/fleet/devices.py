"""Devices in the database."""

from __future__ import annotations

import json
from collections.abc import Iterable

from sqlalchemy import Connection, Row, insert, select, update

from packhorse_agent.contract.base import WireDocument
from packhorse_agent.contract.enrolment import SigningRequest
from packhorse_agent.contract.messages import DeploymentReport, Inventory
from packhorse_host.errors import ConflictError, NotFoundError
from packhorse_host.fleet import schema
from packhorse_host.fleet.model import FleetDevice

_TABLE = schema.devices


class DeviceRecord(WireDocument):
    """All that the host knows of a device; `online` is the device's own unsigned word."""

    device_id: str
    profile: str
    public_key: str
    tags: tuple[str, ...]
    enrolled_unix_s: float
    online: bool
    seen_unix_s: float | None
    """When its last genuine report came."""
    simulated: bool
    inventory: Inventory | None

    @property
    def for_planning(self) -> FleetDevice:
        """The part that gates and previews read."""
        return FleetDevice(
            device_id=self.device_id,
            profile=self.profile,
            agent_version=self.inventory.agent_version if self.inventory else "",
            tags=frozenset(self.tags),
            simulated=self.simulated if self.inventory else None,
        )


def add_device(
    connection: Connection, request: SigningRequest, tags: Iterable[str] | None, now_s: float
) -> None:
    """Enrol a device by its checked request; enrolling again with the same key brings it up to date.

    Tags of None keep those that it has.

    Raises:
        ConflictError: the name belongs to a device with another key.
    """
    device_id, public_key = request.device_id, request.public_key
    row = _find(connection, device_id)
    values = {"profile": request.profile}
    if row is None or tags is not None:
        values["tags"] = json.dumps(sorted(set(tags or ())))
    if row is None:
        fixed = {"device_id": device_id, "public_key": public_key, "enrolled_unix_s": now_s}
        connection.execute(insert(_TABLE).values(**fixed, **values, online=False, simulated=False))
    elif row.public_key != public_key:
        raise ConflictError(f"{device_id} is enrolled with another key; choose another name for this device")
    else:
        connection.execute(update(_TABLE).where(_TABLE.c.device_id == device_id).values(**values))


def load_devices(connection: Connection) -> list[DeviceRecord]:
    """All devices by name."""
    return [_record(row) for row in connection.execute(select(_TABLE).order_by(_TABLE.c.device_id))]


def load_device(connection: Connection, device_id: str) -> DeviceRecord:
    """One device.

    Raises:
        NotFoundError: it is not enrolled.
    """
    row = _find(connection, device_id)
    if row is None:
        raise NotFoundError(f"there is no device {device_id}; see `packhorse device list`")
    return _record(row)


def set_online(connection: Connection, device_id: str, online: bool) -> None:
    """Note what the link says; unknown devices are ignored."""
    connection.execute(update(_TABLE).where(_TABLE.c.device_id == device_id).values(online=online))


def store_inventory(connection: Connection, device_id: str, inventory: Inventory, now_s: float) -> None:
    """Replace a device's inventory."""
    values = {
        "inventory": inventory.model_dump_json(),
        "simulated": inventory.simulated,
        "seen_unix_s": now_s,
    }
    connection.execute(update(_TABLE).where(_TABLE.c.device_id == device_id).values(**values))


def store_deployment(connection: Connection, device_id: str, report: DeploymentReport, now_s: float) -> None:
    """Add a change of state to a device's history."""
    connection.execute(
        insert(schema.deployments).values(
            device_id=device_id,
            slot=report.slot,
            rollout_id=report.rollout_id,
            generation=report.generation,
            state=report.state.value,
            stored_unix_s=now_s,
            report=report.model_dump_json(),
        )
    )


def load_history(connection: Connection, device_id: str, limit: int = 50) -> list[DeploymentReport]:
    """A device's changes of state, latest first."""
    table = schema.deployments
    query = select(table.c.report).where(table.c.device_id == device_id).order_by(table.c.id.desc())
    rows = connection.execute(query.limit(limit))
    return [DeploymentReport.model_validate_json(row.report) for row in rows]


def _find(connection: Connection, device_id: str) -> Row[tuple[object, ...]] | None:
    return connection.execute(select(_TABLE).where(_TABLE.c.device_id == device_id)).first()


def _record(row: Row[tuple[object, ...]]) -> DeviceRecord:
    values = dict(row._mapping)
    values["tags"] = tuple(json.loads(values["tags"]))
    inventory = values["inventory"]
    values["inventory"] = Inventory.model_validate_json(inventory) if inventory else None
    return DeviceRecord.model_validate(values)
