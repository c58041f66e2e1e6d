"""The database: whole transactions, several processes, a log that shows when it was tampered with."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import insert, update
from sqlalchemy.exc import IntegrityError

from packhorse_host.errors import ConfigError, ConflictError, EnvironmentFaultError, NotFoundError
from packhorse_host.fleet import schema
from packhorse_host.fleet.database import (
    Database,
    add_rollout,
    append_audit,
    audit_break,
    latest_deployments,
    load_audit,
    load_rollout,
    load_rollouts,
    save_rollout,
)
from packhorse_host.fleet.devices import store_deployment
from tests.fakes.fleet import state
from tests.host.fleet.conftest import Enrol
from tests.host.fleet.makers import record


def test_a_database_of_a_newer_packhorse_is_left_alone(url: str, database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(update(schema.schema_version).values(version=schema.SCHEMA_VERSION + 1))
    with pytest.raises(ConflictError, match="upgrade"):
        Database(url)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("no address", ConfigError),
        ("nosuch://host/db", ConfigError),
        ("sqlite:////nosuch/folder/db", EnvironmentFaultError),
    ],
)
def test_an_address_that_leads_nowhere_is_said_so(url: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        Database(url)


def test_a_file_that_is_no_database_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "fleet.sqlite").write_bytes(b"something else altogether" * 100)
    with pytest.raises(EnvironmentFaultError, match="not a database"):
        Database(f"sqlite:///{tmp_path / 'fleet.sqlite'}")


def test_a_full_disk_names_the_database_and_what_to_do(url: str, database: Database) -> None:
    with (
        pytest.raises(EnvironmentFaultError, match=r"fleet\.sqlite refuses: .*free some space"),
        database.transaction() as connection,
    ):
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        append_audit(connection, 1.0, "me", "x" * 100_000)


def test_a_database_that_is_well_has_nothing_to_say(database: Database) -> None:
    with database.transaction() as connection:
        append_audit(connection, 1.0, "me", "this")
    assert database.check() is None


def test_a_changed_audit_log_and_a_damaged_file_are_found(url: str, database: Database) -> None:
    with database.transaction() as connection:
        append_audit(connection, 1.0, "me", "this")
        connection.execute(update(schema.audit).values(text="that"))
    assert "audit log" in (database.check() or "") and "entry 1" in (database.check() or "")
    with database.transaction() as connection:
        connection.exec_driver_sql("PRAGMA writable_schema = ON")
        connection.exec_driver_sql("UPDATE sqlite_master SET rootpage = 3 WHERE name = 'windows'")
    again = Database(url)
    try:
        assert "damaged" in (again.check() or "")
    finally:
        again.close()


def test_a_transaction_is_stored_whole_or_not_at_all(url: str, database: Database) -> None:
    with pytest.raises(RuntimeError), database.transaction() as connection:
        add_rollout(connection, record())
        append_audit(connection, 1.0, "me", "start")
        raise RuntimeError("killed here")
    other = Database(url)
    with other.transaction() as connection:
        assert load_rollouts(connection) == []
        assert load_audit(connection) == []
    other.close()


def test_a_locked_database_is_the_environments_fault(
    url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packhorse_host.fleet.database._BUSY_TIMEOUT_S", 0.05)
    impatient = Database(url)
    locked = pytest.raises(EnvironmentFaultError, match="locked")
    with database.transaction(), locked, impatient.transaction():
        pass
    impatient.close()


def test_a_defect_is_not_hidden_as_a_fault_of_the_environment(database: Database) -> None:
    with pytest.raises(IntegrityError), database.transaction() as connection:
        connection.execute(insert(schema.schema_version).values(version=schema.SCHEMA_VERSION))


_WRITER = """
import sys
from packhorse_host.fleet.database import Database, append_audit
database = Database(sys.argv[1])
for number in range(25):
    with database.transaction() as connection:
        append_audit(connection, float(number), sys.argv[2], f"change {number}")
"""


def test_several_processes_write_at_once_and_the_chain_holds(url: str) -> None:
    """They even make the tables at the same moment."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, url, name], env=environment, stderr=subprocess.PIPE)
        for name in ("a", "b", "c")
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors.decode()
    database = Database(url)
    with database.transaction() as connection:
        entries = load_audit(connection)
    database.close()
    assert len(entries) == 75
    assert audit_break(entries) is None
    for name in ("a", "b", "c"):
        assert [one.text for one in entries if one.actor == name] == [f"change {at}" for at in range(25)]


@pytest.mark.parametrize(
    ("tampering", "position"),
    [
        ("update audit set text = 'nothing happened' where position = 3", 3),
        ("update audit set at_unix_s = 0 where position = 2", 2),
        ("update audit set actor = 'somebody else' where position = 5", 5),
        ("delete from audit where position = 4", 4),
        ("delete from audit where position = 1", 1),
        ("update audit set sha256 = previous_sha256 where position = 5", 5),
    ],
)
def test_tampering_with_the_log_shows(url: str, database: Database, tampering: str, position: int) -> None:
    with database.transaction() as connection:
        for number in range(1, 6):
            append_audit(connection, float(number), "me", f"change {number}")
        assert audit_break(load_audit(connection)) is None
    raw = sqlite3.connect(url.removeprefix("sqlite:///"))
    raw.execute(tampering)
    raw.commit()
    raw.close()
    with database.transaction() as connection:
        assert audit_break(load_audit(connection)) == position


def test_rollouts_keep_their_order_and_change_in_place(database: Database) -> None:
    with database.transaction() as connection:
        for name in ("z", "a", "m"):
            add_rollout(connection, record(id=name))
        save_rollout(connection, record("paused", id="a", reason="a person said so"))
    with database.transaction() as connection:
        assert [(one.spec.id, one.progress.value) for one in load_rollouts(connection)] == [
            ("z", "running"),
            ("a", "paused"),
            ("m", "running"),
        ]
        assert load_rollout(connection, "a").reason == "a person said so"
        with pytest.raises(NotFoundError, match="rollout list"):
            load_rollout(connection, "b")


def test_the_last_word_of_each_device_on_one_generation(database: Database, enrol: Enrol) -> None:
    for name in ("a", "b"):
        enrol(name)
    words = [("a", 1, "one"), ("b", 1, "two"), ("a", 1, "three"), ("a", 2, "four")]
    with database.transaction() as connection:
        for name, generation, detail in words:
            report = state(1, detail).model_copy(update={"generation": generation})
            store_deployment(connection, name, report, 5.0)
        latest = {one.device_id: one.detail for one in latest_deployments(connection, "first", 1)}
        assert latest == {"a": "three", "b": "two"}
        assert latest_deployments(connection, "second", 1) == []
