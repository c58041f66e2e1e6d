"""Takes signed reports in: what is not the device's own is dropped and counted, nothing is stored twice.

A genuine report that this version cannot read is set aside and acknowledged all the same: the agent sends one
report of a stream at a time, so that it would stand in the way of all that come after it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from pydantic import ValidationError
from sqlalchemy import Connection, insert, select, update

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.envelope import unseal
from packhorse_agent.contract.errors import MalformedMessageError, UnreadableContentError
from packhorse_agent.contract.messages import (
    DeploymentReport,
    Inventory,
    Report,
    ReportAck,
    ReportHeader,
    ReportItem,
    TelemetryWindow,
    sketch_from_text,
)
from packhorse_agent.contract.topics import DeviceTopic
from packhorse_agent.trust.keys import verify_ed25519
from packhorse_host.fleet import schema
from packhorse_host.fleet.database import Database
from packhorse_host.fleet.devices import store_deployment, store_inventory
from packhorse_host.fleet.lifecycle import is_removed
from packhorse_host.fleet.unread import set_aside

UNKNOWN_DEVICE = "(unknown)"
"""Reports of devices that are not enrolled are counted under one name, so that they cannot fill the table."""

_log = logging.getLogger(__name__)


class DropCause(str, Enum):
    """Why a report was not stored."""

    FORGED = "forged"
    REPEATED = "repeated"
    """The latest one once more: the device did not hear the acknowledgement."""
    REPLAYED = "replayed"
    """An older one: no honest device sends it."""
    MALFORMED = "malformed"
    """No envelope at all."""
    UNREADABLE = "unreadable"
    """Genuine, and set aside: its content is newer than this host, or nonsense."""
    REMOVED = "removed"
    """Of a device that was taken out of the fleet."""
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class _Unreadable:
    """A genuine report without the part that can be stored."""

    header: ReportHeader
    content: bytes
    why: str


class Ingest:
    """Stores reports; `now` is the wall clock in Unix seconds."""

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now
        self._warned: set[str] = set()

    def take(self, topic: DeviceTopic, envelope: bytes) -> ReportAck | None:
        """Store one report; the answer is what to acknowledge, None when the report is not genuine.

        A report that was stored before is acknowledged again: the device may not have heard it.
        """
        device_id = topic.device_id
        with self._database.transaction() as connection:
            key = _public_key(connection, device_id)
            if key is None:
                _count_drop(connection, UNKNOWN_DEVICE, DropCause.UNKNOWN)
                return None
            if is_removed(connection, device_id):
                _count_drop(connection, device_id, DropCause.REMOVED)
                return None
            report = _open(envelope, key, topic)
            if isinstance(report, DropCause):
                _count_drop(connection, device_id, report)
                if report is DropCause.UNREADABLE:
                    self._warn(device_id, "nor can their numbers be read: they cannot be acknowledged")
                return None
            return self._store(connection, report)

    def _store(self, connection: Connection, report: Report | _Unreadable) -> ReportAck:
        header = report.header if isinstance(report, _Unreadable) else report
        mark = _mark(connection, header)
        key = (header.boot, header.sequence)
        if mark is not None and key <= mark:
            cause = DropCause.REPEATED if key == mark else DropCause.REPLAYED
            _count_drop(connection, header.device_id, cause)
            return ReportAck(stream=header.stream, boot=mark[0], sequence=mark[1])
        now_s = self._now()
        if isinstance(report, _Unreadable):
            self._set_aside(connection, report, now_s)
        else:
            _store_items(connection, report, now_s)
        _set_mark(connection, header, is_new=mark is None)
        seen = update(schema.devices).where(schema.devices.c.device_id == header.device_id)
        connection.execute(seen.values(seen_unix_s=now_s))
        return ReportAck(stream=header.stream, boot=header.boot, sequence=header.sequence)

    def _set_aside(self, connection: Connection, report: _Unreadable, now_s: float) -> None:
        device_id = report.header.device_id
        set_aside(connection, report.header, report.content, now_s)
        _count_drop(connection, device_id, DropCause.UNREADABLE)
        self._warn(device_id, f"they are set aside: {report.why}")

    def _warn(self, device_id: str, what: str) -> None:
        if device_id not in self._warned:
            self._warned.add(device_id)
            advice = "upgrade the host when the agent is newer"
            _log.warning("%s sends reports that this Packhorse cannot read (%s), %s", device_id, advice, what)


def load_drops(connection: Connection) -> dict[tuple[str, str], int]:
    """(device, cause) → how many reports were not stored."""
    rows = connection.execute(select(schema.dropped_reports))
    return {(row.device_id, row.cause): row._mapping["count"] for row in rows}


def _open(envelope: bytes, public_key: str, topic: DeviceTopic) -> Report | _Unreadable | DropCause:
    try:
        report = unseal(envelope, lambda signature, message: verify_ed25519(public_key, signature, message))
    except UnreadableContentError as error:
        return _header_of(error.content, str(error), topic)
    except MalformedMessageError:
        return DropCause.MALFORMED
    if report is None or not _is_from(topic, report):
        return DropCause.FORGED
    try:
        for item in report.items:
            if isinstance(item, TelemetryWindow):
                sketch_from_text(item.latency_us)
    except MalformedMessageError as error:
        return _Unreadable(report, canonical_json(report), str(error))
    return report


def _header_of(content: bytes, why: str, topic: DeviceTopic) -> _Unreadable | DropCause:
    try:
        header = ReportHeader.model_validate_json(content)
    except ValidationError:
        return DropCause.UNREADABLE
    first_line = why.partition("\n")[0]
    return _Unreadable(header, content, first_line) if _is_from(topic, header) else DropCause.FORGED


def _is_from(topic: DeviceTopic, header: ReportHeader) -> bool:
    return (header.fleet, header.device_id) == (topic.fleet, topic.device_id)


def _public_key(connection: Connection, device_id: str) -> str | None:
    table = schema.devices
    return connection.scalar(select(table.c.public_key).where(table.c.device_id == device_id))


def _mark(connection: Connection, report: ReportHeader) -> tuple[int, int] | None:
    table = schema.streams
    query = select(table.c.boot, table.c.sequence).where(
        table.c.device_id == report.device_id, table.c.stream == report.stream
    )
    row = connection.execute(query).first()
    return (row.boot, row.sequence) if row else None


def _set_mark(connection: Connection, report: ReportHeader, *, is_new: bool) -> None:
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


def _store_items(connection: Connection, report: Report, now_s: float) -> None:
    device = schema.devices
    profile = connection.scalar(select(device.c.profile).where(device.c.device_id == report.device_id))
    for item in report.items:
        _store_item(connection, report, item, str(profile), now_s)


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
