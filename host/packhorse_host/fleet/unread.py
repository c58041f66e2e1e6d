"""Genuine reports that this version cannot read: set aside as they came, the latest few of each device."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
    delete,
    insert,
    select,
)

from packhorse_agent.contract.messages import ReportHeader
from packhorse_host.fleet import schema

KEPT_PER_DEVICE = 16
"""At most 1 MiB of each device: no device can fill the disk by signing nonsense."""

unread_reports = Table(
    "unread_reports",
    schema.metadata,
    Column("id", Integer, primary_key=True),
    Column("device_id", String(63), ForeignKey("devices.device_id"), nullable=False, index=True),
    Column("stream", String(16), nullable=False),
    Column("boot", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("stored_unix_s", Float, nullable=False),
    Column("content", LargeBinary, nullable=False),
)
"""The signed content, for a newer Packhorse and for people."""


def set_aside(connection: Connection, header: ReportHeader, content: bytes, now_s: float) -> None:
    """Keep what was signed; the device's oldest gives way."""
    table = unread_reports
    key = {"device_id": header.device_id, "stream": header.stream}
    number = {"boot": header.boot, "sequence": header.sequence}
    connection.execute(insert(table).values(**key, **number, stored_unix_s=now_s, content=content))
    mine = table.c.device_id == header.device_id
    kept = select(table.c.id).where(mine).order_by(table.c.id.desc()).limit(KEPT_PER_DEVICE)
    connection.execute(delete(table).where(mine, table.c.id.not_in(kept.scalar_subquery())))


def load_unread(connection: Connection, device_id: str) -> list[bytes]:
    """What was set aside of a device, oldest first."""
    table = unread_reports
    query = select(table.c.content).where(table.c.device_id == device_id).order_by(table.c.id)
    return list(connection.scalars(query))
