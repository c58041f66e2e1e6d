"""Devices in the database."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum

from sqlalchemy import Connection, Row, insert, select, update

from packhorse_agent.contract.base import WireDocument
from packhorse_agent.contract.enrolment import SigningRequest
from packhorse_agent.contract.messages import DeploymentReport, Inventory
from packhorse_host.errors import ConflictError, NotFoundError
from packhorse_host.fleet import schema
from packhorse_host.fleet.lifecycle import (
    is_removed,
    is_retired,
    mark_removed,
    removed_devices,
    retire_key,
    unmark_removed,
)
from packhorse_host.fleet.model import FleetDevice

_TABLE = schema.devices
_RECORDS = select(_TABLE, removed_devices.c.removed_unix_s).outerjoin(removed_devices)


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
    removed_unix_s: float | None = None
    """When it was removed from the fleet; None while it belongs to it."""

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


class Enrolled(str, Enum):
    """What enrolling a device has changed."""

    NEW = "new"
    UPDATED = "updated"
    KEY_REPLACED = "key replaced"


def add_device(
    connection: Connection,
    request: SigningRequest,
    tags: Iterable[str] | None,
    now_s: float,
    *,
    replace_key: bool = False,
) -> Enrolled:
    """Enrol a device by its checked request; enrolling again with the same key brings it up to date.

    Tags of None keep those that it has. With `replace_key` a name may get another key: the old one is
    retired for good, and what it signed counts for no rollout any more. A removed device comes back.

    Raises:
        ConflictError: the name belongs to a device with another key, or the key was replaced before.
    """
    device_id, public_key = request.device_id, request.public_key
    row = _find(connection, device_id)
    values: dict[str, object] = {"profile": request.profile}
    if row is None or tags is not None:
        values["tags"] = json.dumps(sorted(set(tags or ())))
    if row is None:
        fixed = {"device_id": device_id, "public_key": public_key, "enrolled_unix_s": now_s}
        connection.execute(insert(_TABLE).values(**fixed, **values, online=False, simulated=False))
        return Enrolled.NEW
    replaced = row.public_key != public_key
    if replaced:
        _replace_key(connection, device_id, str(row.public_key), public_key, now_s, replace_key)
        values |= {"public_key": public_key, "enrolled_unix_s": now_s, "inventory": None, "simulated": False}
    connection.execute(update(_TABLE).where(_TABLE.c.device_id == device_id).values(**values))
    unmark_removed(connection, device_id)
    return Enrolled.KEY_REPLACED if replaced else Enrolled.UPDATED


def _replace_key(
    connection: Connection, device_id: str, old: str, new: str, now_s: float, allowed: bool
) -> None:
    if is_retired(connection, device_id, new):
        raise ConflictError(
            f"{device_id} had this key before and it was replaced; remove device.key in the device's state "
            "folder and make a new request with `packhorse-agent request`"
        )
    if not allowed:
        raise ConflictError(
            f"{device_id} is enrolled with another key; if this is the same device and it lost its key, pass "
            "--replace-key (the old key is refused from then on), else choose another name"
        )
    retire_key(connection, device_id, old, now_s)


def remove_device(connection: Connection, device_id: str, now_s: float) -> bool:
    """Take a device out of the fleet and keep its history; False when it was removed already.

    Raises:
        NotFoundError: it was never enrolled.
    """
    load_device(connection, device_id)
    if is_removed(connection, device_id):
        return False
    mark_removed(connection, device_id, now_s)
    set_online(connection, device_id, False)
    return True


def load_devices(connection: Connection, *, with_removed: bool = False) -> list[DeviceRecord]:
    """All devices of the fleet by name; those that were removed only when asked for."""
    query = _RECORDS if with_removed else _RECORDS.where(removed_devices.c.removed_unix_s.is_(None))
    return [_record(row) for row in connection.execute(query.order_by(_TABLE.c.device_id))]


def load_device(connection: Connection, device_id: str) -> DeviceRecord:
    """One device, also one that was removed.

    Raises:
        NotFoundError: it was never enrolled.
    """
    row = _find(connection, device_id)
    if row is None:
        raise NotFoundError(f"there is no device {device_id}; see `packhorse device list`")
    return _record(row)


def set_online(connection: Connection, device_id: str, online: bool) -> None:
    """Note what the link says; devices that are unknown or removed are ignored."""
    if online and is_removed(connection, device_id):
        return
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
    return connection.execute(_RECORDS.where(_TABLE.c.device_id == device_id)).first()


def _record(row: Row[tuple[object, ...]]) -> DeviceRecord:
    values = dict(row._mapping)
    values["tags"] = tuple(json.loads(values["tags"]))
    inventory = values["inventory"]
    values["inventory"] = Inventory.model_validate_json(inventory) if inventory else None
    return DeviceRecord.model_validate(values)
