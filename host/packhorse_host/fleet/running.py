"""Puts a controller together out of a workspace, and takes it apart again."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from packhorse_agent.contract.topics import DeviceChannel, DeviceTopic, WantTopic
from packhorse_agent.link import LinkEvent, LinkSettings, MqttLink, Subscription, TlsSettings
from packhorse_agent.link.backoff import Backoff
from packhorse_agent.store.lock import FolderLock
from packhorse_host.broker import (
    CONTROLLER_USERNAME,
    BrokerKind,
    BrokerSettings,
    BrokerTls,
    CredentialStore,
    EmbeddedBroker,
    Endpoint,
    Role,
    generate_password,
)
from packhorse_host.delivery import ChunkServer
from packhorse_host.delivery.signed import SignedBlobs
from packhorse_host.errors import ConfigError
from packhorse_host.fleet.controller import Controller, Parts
from packhorse_host.fleet.opened import OpenedFleet, open_fleet
from packhorse_host.fleet.presence import LOCK_FILE
from packhorse_host.telemetry.ingest import Ingest
from packhorse_host.workspace import BrokerTable, Workspace

_RETRY_MAX_S = 5.0
_REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (what to connect to, not to listen on)


@dataclass(frozen=True)
class Running:
    """A controller that is ready to run, and where its broker listens."""

    controller: Controller
    fleet: str
    endpoint: Endpoint


@dataclass(frozen=True)
class _Access:
    endpoint: Endpoint
    username: str
    password: str
    broker: EmbeddedBroker | None


@contextmanager
def run_controller(folder: Path | None, port: int | None) -> Iterator[Running]:
    """Everything but the loop: call `controller.run()` inside.

    Raises:
        NotFoundError: no workspace.
        ConflictError: another controller runs on it.
        EnvironmentFaultError: the broker cannot be started, the port is taken, or the database refuses.
    """
    with ExitStack() as stack:
        fleet = stack.enter_context(open_fleet(folder))
        stack.enter_context(FolderLock(fleet.workspace.folder / LOCK_FILE))
        access = _open_broker(fleet.workspace, port)
        if access.broker is not None:
            stack.callback(access.broker.stop)
        events: queue.SimpleQueue[LinkEvent | None] = queue.SimpleQueue()
        link = MqttLink(_link_settings(fleet.workspace, access), events.put, Backoff(maximum_s=_RETRY_MAX_S))
        parts = _parts(fleet, link, access.broker)
        stack.callback(parts.chunks.close)
        controller = Controller(parts, events)
        link.start()
        stack.callback(link.stop)
        yield Running(controller, fleet.workspace.fleet, access.endpoint)


def _parts(fleet: OpenedFleet, link: MqttLink, broker: EmbeddedBroker | None) -> Parts:
    workspace = fleet.workspace

    def send_chunk(topic: str, payload: bytes) -> None:
        link.publish(topic, payload, qos=0)

    return Parts(
        fleet=workspace.fleet,
        database=fleet.database,
        repository=fleet.repository,
        chunks=ChunkServer(
            fleet.repository,
            send_chunk,
            workspace.fleet,
            time.monotonic,
            workspace.settings.delivery.rate_limit_bytes_per_s,
            ready=lambda: link.ready,
            find_signed=SignedBlobs(fleet.repository, workspace.repository_folder / "blobs").find,
        ),
        ingest=Ingest(fleet.database, time.time),
        publish=lambda topic, payload, retain: link.publish(topic, payload, qos=1, retain=retain),
        broker=broker,
    )


def _open_broker(workspace: Workspace, port: int | None) -> _Access:
    table = workspace.settings.broker
    if table.kind == "external":
        return _external(workspace, table)
    credentials = CredentialStore(workspace.broker_folder)
    password = generate_password()
    credentials.add(CONTROLLER_USERNAME, password, Role.CONTROLLER)
    settings = BrokerSettings(
        workspace.broker_folder,
        table.host,
        table.port if port is None else port,
        _broker_tls(workspace, table),
    )
    broker = EmbeddedBroker(settings, credentials, None if table.kind == "auto" else BrokerKind(table.kind))
    return _Access(broker.start(), CONTROLLER_USERNAME, password, broker)


def _external(workspace: Workspace, table: BrokerTable) -> _Access:
    if table.username is None or table.password_file is None:
        raise ConfigError("an external broker needs username and password_file under [broker]")
    try:
        password = (workspace.folder / table.password_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"[broker] password_file cannot be read: {error}") from error
    return _Access(Endpoint(table.host, table.port), table.username, password, None)


def _broker_tls(workspace: Workspace, table: BrokerTable) -> BrokerTls | None:
    tls = table.tls
    if tls is None:
        return None
    if tls.certificate_file is None or tls.key_file is None:
        raise ConfigError("an embedded broker needs certificate_file and key_file under [broker.tls]")
    return BrokerTls(
        workspace.folder / tls.certificate_file,
        workspace.folder / tls.key_file,
        workspace.folder / tls.ca_file if tls.ca_file else None,
        tls.require_client_certificate,
    )


def _link_tls(workspace: Workspace, table: BrokerTable) -> TlsSettings | None:
    tls = table.tls
    if tls is None:
        return None
    certificate, key = tls.client_certificate_file, tls.client_key_file
    return TlsSettings(
        workspace.folder / tls.trusted_file,
        workspace.folder / certificate if certificate else None,
        workspace.folder / key if key else None,
    )


def _own_host(table: BrokerTable) -> str:
    """Where the controller reaches its broker; with TLS, under a name that the certificate can hold."""
    return table.advertised_host if table.tls else _REACHABLE.get(table.host, table.host)


def _link_settings(workspace: Workspace, access: _Access) -> LinkSettings:
    fleet, table = workspace.fleet, workspace.settings.broker
    return LinkSettings(
        host=_own_host(table),
        port=access.endpoint.port,
        client_id=f"{CONTROLLER_USERNAME}-{fleet}",
        username=access.username,
        password=access.password,
        tls=_link_tls(workspace, table),
        subscriptions=(
            Subscription(str(DeviceTopic(fleet, "+", DeviceChannel.REPORT)), 1),
            Subscription(str(DeviceTopic(fleet, "+", DeviceChannel.LINK)), 1),
            Subscription(WantTopic.filter(fleet), 1),
        ),
    )
