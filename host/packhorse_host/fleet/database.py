"""The fleet's database: opened here, written in transactions, read as value types."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, func, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, ProgrammingError

from packhorse_agent.contract.base import WireDocument
from packhorse_agent.contract.messages import DeploymentReport
from packhorse_host.errors import ConfigError, ConflictError, EnvironmentFaultError, NotFoundError
from packhorse_host.fleet import schema, unread  # noqa: F401 (a table of its own, made with the others)
from packhorse_host.fleet.lifecycle import last_retired_deployments
from packhorse_host.fleet.model import LatestDeployment, RolloutRecord

_BUSY_TIMEOUT_S = 10.0
_ROOM_WANTED_BYTES = 256 * 1024


class AuditEntry(WireDocument):
    """One change; `sha256` covers the entry and the one before it."""

    position: int
    at_unix_s: float
    actor: str
    text: str
    previous_sha256: str
    sha256: str


class Database:
    """One database; safe to use from one thread at a time, and from several processes."""

    def __init__(self, url: str) -> None:
        """Open, and make the tables where there are none.

        Raises:
            ConfigError: the address is none, or its driver is not installed.
            EnvironmentFaultError: the database cannot be opened.
            ConflictError: it was made by a newer Packhorse.
        """
        self._engine = _open(url)
        self._name = _name(url)
        try:
            self._prepare()
        except DBAPIError as error:
            self.close()
            raise self._fault("cannot be opened", error) from error
        except ConflictError:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: all of it is stored, or nothing.

        Raises:
            EnvironmentFaultError: the database refuses (disk full, locked for too long).
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except (IntegrityError, ProgrammingError):
            raise  # a defect, not the environment's fault
        except DBAPIError as error:
            raise self._fault("refuses", error) from error

    def close(self) -> None:
        """Release the connections."""
        self._engine.dispose()

    def check(self) -> str | None:
        """What is wrong with the stored data, in words; None when nothing is.

        Raises:
            EnvironmentFaultError: the database cannot be read.
        """
        with self.transaction() as connection:
            if connection.dialect.name == "sqlite":
                found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
                if found != "ok":
                    return f"{self._name} is damaged: {found}; restore a copy of it"
            broken = audit_break(load_audit(connection))
        if broken is not None:
            return f"the audit log of {self._name} was changed at entry {broken}"
        return None

    def _fault(self, what: str, error: DBAPIError) -> EnvironmentFaultError:
        full = "full" in str(error.orig) or _lies_on_a_full_disk(self._name)
        advice = "; its disk is full: free some space" if full else ""
        return EnvironmentFaultError(f"the database {self._name} {what}: {error.orig}{advice}")

    def _prepare(self) -> None:
        with self._engine.begin() as connection:
            schema.metadata.create_all(connection)
            version = connection.scalar(select(schema.schema_version.c.version))
            if version is None:
                connection.execute(insert(schema.schema_version).values(version=schema.SCHEMA_VERSION))
            elif version > schema.SCHEMA_VERSION:
                known = f"this Packhorse knows {schema.SCHEMA_VERSION}: upgrade it"
                raise ConflictError(f"the database has schema {version}, {known}")


def _name(url: str) -> str:
    """Which database that is, for people, without a password."""
    address = make_url(url)
    return address.database or "in memory" if address.get_backend_name() == "sqlite" else str(address)


def _lies_on_a_full_disk(name: str) -> bool:
    """SQLite calls a disk without room for its shared memory an I/O error."""
    try:
        return shutil.disk_usage(Path(name).parent).free < _ROOM_WANTED_BYTES
    except OSError:
        return False


def _open(url: str) -> Engine:
    try:
        engine = create_engine(url, connect_args=_connect_args(url))
    except (ArgumentError, ImportError) as error:
        raise ConfigError(f"[database] url cannot be used: {error}") from error
    if make_url(url).get_backend_name() == "sqlite":
        event.listen(engine, "connect", _tune_sqlite)
        event.listen(engine, "begin", _begin_immediate)
    return engine


def _connect_args(url: str) -> dict[str, object]:
    if make_url(url).get_backend_name() == "sqlite":
        return {"timeout": _BUSY_TIMEOUT_S, "isolation_level": None}
    return {}


def _tune_sqlite(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    """Take the write lock at once: a transaction that reads and then writes must not fail half-way."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def load_rollouts(connection: Connection) -> list[RolloutRecord]:
    """All rollouts, oldest first."""
    rows = connection.execute(select(schema.rollouts.c.record).order_by(schema.rollouts.c.position))
    return [RolloutRecord.model_validate_json(row.record) for row in rows]


def load_rollout(connection: Connection, rollout_id: str) -> RolloutRecord:
    """One rollout.

    Raises:
        NotFoundError: there is none of that id.
    """
    query = select(schema.rollouts.c.record).where(schema.rollouts.c.id == rollout_id)
    text = connection.scalar(query)
    if text is None:
        raise NotFoundError(f"there is no rollout {rollout_id}; see `packhorse rollout list`")
    return RolloutRecord.model_validate_json(text)


def add_rollout(connection: Connection, record: RolloutRecord) -> None:
    """Store a new rollout as the latest."""
    last = connection.scalar(select(func.max(schema.rollouts.c.position))) or 0
    connection.execute(
        insert(schema.rollouts).values(
            id=record.spec.id,
            position=last + 1,
            progress=record.progress.value,
            record=record.model_dump_json(),
        )
    )


def save_rollout(connection: Connection, record: RolloutRecord) -> None:
    """Store where a rollout stands now."""
    connection.execute(
        update(schema.rollouts)
        .where(schema.rollouts.c.id == record.spec.id)
        .values(progress=record.progress.value, record=record.model_dump_json())
    )


def latest_deployments(connection: Connection, rollout_id: str, generation: int) -> list[LatestDeployment]:
    """The last word of each device on a rollout's generation, signed with its present key."""
    table = schema.deployments
    newest = (
        select(func.max(table.c.id))
        .where(table.c.rollout_id == rollout_id, table.c.generation == generation)
        .group_by(table.c.device_id)
    )
    rows = connection.execute(select(table).where(table.c.id.in_(newest)))
    retired = last_retired_deployments(connection)
    return [
        _latest(row.device_id, row.report, row.stored_unix_s)
        for row in rows
        if row.id > retired.get(row.device_id, 0)
    ]


def append_audit(connection: Connection, at_unix_s: float, actor: str, text: str) -> AuditEntry:
    """Add an entry to the hash chain."""
    table = schema.audit
    last = connection.execute(select(table).order_by(table.c.position.desc()).limit(1)).first()
    position = last.position + 1 if last else 1
    previous = last.sha256 if last else "0" * 64
    digest = audit_digest(position, at_unix_s, actor, text, previous)
    entry = AuditEntry(
        position=position,
        at_unix_s=at_unix_s,
        actor=actor,
        text=text,
        previous_sha256=previous,
        sha256=digest,
    )
    connection.execute(insert(table).values(entry.model_dump()))
    return entry


def load_audit(connection: Connection) -> list[AuditEntry]:
    """The whole log, oldest first."""
    rows = connection.execute(select(schema.audit).order_by(schema.audit.c.position))
    return [AuditEntry.model_validate(dict(row._mapping)) for row in rows]


def audit_break(entries: Sequence[AuditEntry]) -> int | None:
    """The position of the first entry that does not fit the chain; None when all do."""
    previous = "0" * 64
    for expected, entry in enumerate(entries, start=1):
        digest = audit_digest(entry.position, entry.at_unix_s, entry.actor, entry.text, previous)
        if entry.position != expected or entry.previous_sha256 != previous or entry.sha256 != digest:
            return expected
        previous = entry.sha256
    return None


def audit_digest(position: int, at_unix_s: float, actor: str, text: str, previous_sha256: str) -> str:
    """SHA-256 over an entry's fields, separated by NUL, and the digest before."""
    fields = (str(position), repr(at_unix_s), actor, text, previous_sha256)
    return hashlib.sha256("\0".join(fields).encode()).hexdigest()


def _latest(device_id: str, report_json: str, stored_unix_s: float) -> LatestDeployment:
    report = DeploymentReport.model_validate_json(report_json)
    return LatestDeployment(
        device_id=device_id,
        rollout_id=report.rollout_id,
        generation=report.generation,
        state=report.state,
        reason=report.reason,
        detail=report.detail,
        at_unix_s=stored_unix_s,
    )
