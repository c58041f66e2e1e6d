"""Takes signed reports in: what is not the device's own is dropped and counted, nothing is stored twice."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from sqlalchemy import Connection, insert, select, update

from packhorse_agent.contract.envelope import unseal
from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.messages import (
    DeploymentReport,
    Inventory,
    Report,
    ReportAck,
    ReportItem,
    TelemetryWindow,
    sketch_from_text,
)
from packhorse_agent.contract.topics import DeviceTopic
from packhorse_agent.trust.keys import verify_ed25519
from packhorse_host.fleet import schema
from packhorse_host.fleet.database import Database
from packhorse_host.fleet.devices import store_deployment, store_inventory

UNKNOWN_DEVICE = "(unknown)"
"""Reports of devices that are not enrolled are counted under one name, so that they cannot fill the table."""


class DropCause(str, Enum):
    """Why a report was not stored."""

    FORGED = "forged"
    REPEATED = "repeated"
    """The latest one once more: the device did not hear the acknowledgement."""
    REPLAYED = "replayed"
    """An older one: no honest device sends it."""
    MALFORMED = "malformed"
    UNKNOWN = "unknown"


class Ingest:
    """Stores reports; `now` is the wall clock in Unix seconds."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now

    def take(self, topic: DeviceTopic, envelope: bytes) -> ReportAck | None:
        """Store one report; the answer is what to acknowledge, None when the report is not genuine.

        A report that was stored before is acknowledged again: the device may not have heard it.
        """
        with self._database.transaction() as connection:
            key = _public_key(connection, topic.device_id)
            if key is None:
                _count_drop(connection, UNKNOWN_DEVICE, DropCause.UNKNOWN)
                return None
            report = _open(envelope, key, topic)
            if isinstance(report, DropCause):
                _count_drop(connection, topic.device_id, report)
                return None
            return self._store(connection, report)

    def _store(self, connection: Connection, report: Report) -> ReportAck:
        mark = _mark(connection, report)
        key = (report.boot, report.sequence)
        if mark is not None and key <= mark:
            cause = DropCause.REPEATED if key == mark else DropCause.REPLAYED
            _count_drop(connection, report.device_id, cause)
            return ReportAck(stream=report.stream, boot=mark[0], sequence=mark[1])
        now_s = self._now()
        profile = connection.scalar(
            select(schema.devices.c.profile).where(schema.devices.c.device_id == report.device_id)
        )
        for item in report.items:
            _store_item(connection, report, item, str(profile), now_s)
        _set_mark(connection, report, is_new=mark is None)
        seen = update(schema.devices).where(schema.devices.c.device_id == report.device_id)
        connection.execute(seen.values(seen_unix_s=now_s))
        return ReportAck(stream=report.stream, boot=report.boot, sequence=report.sequence)


def load_drops(connection: Connection) -> dict[tuple[str, str], int]:
    """(device, cause) → how many reports were not stored."""
    rows = connection.execute(select(schema.dropped_reports))
    return {(row.device_id, row.cause): row._mapping["count"] for row in rows}


def _open(envelope: bytes, public_key: str, topic: DeviceTopic) -> Report | DropCause:
    try:
        report = unseal(envelope, lambda signature, message: verify_ed25519(public_key, signature, message))
        if report is None or (report.fleet, report.device_id) != (topic.fleet, topic.device_id):
            return DropCause.FORGED
        for item in report.items:
            if isinstance(item, TelemetryWindow):
                sketch_from_text(item.latency_us)
    except MalformedMessageError:
        return DropCause.MALFORMED
    return report


def _public_key(connection: Connection, device_id: str) -> str | None:
    table = schema.devices
    return connection.scalar(select(table.c.public_key).where(table.c.device_id == device_id))


def _mark(connection: Connection, report: Report) -> tuple[int, int] | None:
    table = schema.streams
    query = select(table.c.boot, table.c.sequence).where(
        table.c.device_id == report.device_id, table.c.stream == report.stream
    )
    row = connection.execute(query).first()
    return (row.boot, row.sequence) if row else None


def _set_mark(connection: Connection, report: Report, *, is_new: bool) -> None:
    table = schema.streams
    values = {"boot": report.boot, "sequence": report.sequence}
    if is_new:
        key = {"device_id": report.device_id, "stream": report.stream}
        connection.execute(insert(table).values(**key, **values))
        return
    mine = (table.c.device_id == report.device_id) & (table.c.stream == report.stream)
    connection.execute(update(table).where(mine).values(**values))


def _count_drop(connection: Connection, device_id: str, cause: DropCause) -> None:
    table = schema.dropped_reports
    mine = (table.c.device_id == device_id) & (table.c.cause == cause.value)
    found = connection.execute(update(table).where(mine).values(count=table.c.count + 1))
    if found.rowcount == 0:
        connection.execute(insert(table).values(device_id=device_id, cause=cause.value, count=1))


def _store_item(connection: Connection, report: Report, item: ReportItem, profile: str, now_s: float) -> None:
    match item:
        case Inventory():
            store_inventory(connection, report.device_id, item, now_s)
        case DeploymentReport():
            store_deployment(connection, report.device_id, item, now_s)
        case TelemetryWindow():
            _store_window(connection, report, item, profile)


def _store_window(connection: Connection, report: Report, window: TelemetryWindow, profile: str) -> None:
    connection.execute(
        insert(schema.windows).values(
            device_id=report.device_id,
            slot=window.slot,
            start_unix_s=window.start_unix_s,
            manifest_sha256=window.manifest_sha256,
            boot=report.boot,
            profile=profile,
            model=window.model,
            version=window.version,
            simulated=window.simulated,
            sketch=sketch_from_text(window.latency_us).encode(),
            window=window.model_dump_json(),
        )
    )
