"""What has ended: devices that were removed, and keys that were replaced. What they did before is kept."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import (
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    String,
    Table,
    delete,
    func,
    insert,
    select,
)

from packhorse_host.fleet import schema

removed_devices = Table(
    "removed_devices",
    schema.metadata,
    Column("device_id", String(63), ForeignKey("devices.device_id"), primary_key=True),
    Column("removed_unix_s", Float, nullable=False),
)
"""Devices that are in the fleet no longer; their rows stay everywhere else."""

retired_keys = Table(
    "retired_keys",
    schema.metadata,
    Column("device_id", String(63), ForeignKey("devices.device_id"), primary_key=True),
    Column("public_key", String(64), primary_key=True),
    Column("retired_unix_s", Float, nullable=False),
    Column("last_deployment_id", Integer, nullable=False),
)
"""Keys that a device had before; `last_deployment_id` is the last row of `deployments` from their time."""


def is_removed(connection: Connection, device_id: str) -> bool:
    """Whether a device was removed and not enrolled again since."""
    table = removed_devices
    query = select(table.c.device_id).where(table.c.device_id == device_id)
    return connection.scalar(query) is not None


def mark_removed(connection: Connection, device_id: str, now_s: float) -> None:
    """Note that a device is in the fleet no longer; it must not be marked yet."""
    connection.execute(insert(removed_devices).values(device_id=device_id, removed_unix_s=now_s))


def unmark_removed(connection: Connection, device_id: str) -> None:
    """A removed device is enrolled again; nothing happens for one that was not removed."""
    connection.execute(delete(removed_devices).where(removed_devices.c.device_id == device_id))


def retire_key(connection: Connection, device_id: str, public_key: str, now_s: float) -> None:
    """Close the time of a key: its number of reports is forgotten, since the next key's begins anew.

    That is sound because reports of the old key do not verify any more, and because a retired key never
    comes back (`is_retired`): nothing that was signed before can be taken in a second time.
    """
    streams, deployments = schema.streams, schema.deployments
    last_id = connection.scalar(select(func.max(deployments.c.id))) or 0
    values = {"device_id": device_id, "public_key": public_key, "retired_unix_s": now_s}
    connection.execute(insert(retired_keys).values(**values, last_deployment_id=last_id))
    connection.execute(delete(streams).where(streams.c.device_id == device_id))


def is_retired(connection: Connection, device_id: str, public_key: str) -> bool:
    """Whether a device had this key before and got another one."""
    table = retired_keys
    mine = (table.c.device_id == device_id) & (table.c.public_key == public_key)
    return connection.scalar(select(table.c.public_key).where(mine)) is not None


def last_retired_deployments(connection: Connection) -> Mapping[str, int]:
    """Device → the last row of `deployments` that a key before its present one signed."""
    table = retired_keys
    query = select(table.c.device_id, func.max(table.c.last_deployment_id)).group_by(table.c.device_id)
    return {row[0]: row[1] for row in connection.execute(query)}
