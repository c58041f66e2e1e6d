"""The database's tables, through SQLAlchemy Core: SQLite here, PostgreSQL where one machine is not enough."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

SCHEMA_VERSION = 1

metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True))

devices = Table(
    "devices",
    metadata,
    Column("device_id", String(63), primary_key=True),
    Column("profile", String(63), nullable=False),
    Column("public_key", String(64), nullable=False),
    Column("tags", Text, nullable=False),
    Column("enrolled_unix_s", Float, nullable=False),
    Column("online", Boolean, nullable=False),
    Column("seen_unix_s", Float),
    Column("inventory", Text),
    Column("simulated", Boolean, nullable=False),
)

streams = Table(
    "streams",
    metadata,
    Column("device_id", String(63), ForeignKey("devices.device_id"), primary_key=True),
    Column("stream", String(16), primary_key=True),
    Column("boot", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
)
"""The last report stored of each stream: what is not after it has been stored before."""

dropped_reports = Table(
    "dropped_reports",
    metadata,
    Column("device_id", String(63), primary_key=True),
    Column("cause", String(16), primary_key=True),
    Column("count", Integer, nullable=False),
)
"""Reports that were not stored, by `telemetry.ingest.DropCause`."""

deployments = Table(
    "deployments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device_id", String(63), ForeignKey("devices.device_id"), nullable=False),
    Column("slot", String(63), nullable=False),
    Column("rollout_id", String(63), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stored_unix_s", Float, nullable=False),
    Column("report", Text, nullable=False),
    Index("deployments_by_rollout", "rollout_id", "generation", "device_id", "id"),
    Index("deployments_by_device", "device_id", "slot", "id"),
)
"""Every change of state that a device reported, in the order in which it came."""

windows = Table(
    "windows",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device_id", String(63), ForeignKey("devices.device_id"), nullable=False),
    Column("slot", String(63), nullable=False),
    Column("start_unix_s", Integer, nullable=False),
    Column("manifest_sha256", String(64), nullable=False),
    Column("boot", Integer, nullable=False),
    Column("profile", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("version", String(63), nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("sketch", LargeBinary, nullable=False),
    Column("window", Text, nullable=False),
    Index("windows_by_device", "device_id", "slot", "start_unix_s"),
    Index("windows_by_release", "model", "version", "profile", "start_unix_s"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("position", Integer, nullable=False, unique=True),
    Column("progress", String(16), nullable=False),
    Column("record", Text, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("at_unix_s", Float, nullable=False),
    Column("actor", String(63), nullable=False),
    Column("text", Text, nullable=False),
    Column("previous_sha256", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),
)
"""Every change that a person or the controller made; each entry covers the one before."""
