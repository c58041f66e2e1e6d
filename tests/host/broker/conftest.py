"""Real brokers and real clients; every wait is on a condition, with a deadline."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from packhorse_host.broker import (
    CONTROLLER_USERNAME,
    BrokerKind,
    BrokerNotFoundError,
    BrokerSettings,
    BrokerTls,
    CredentialStore,
    EmbeddedBroker,
    Endpoint,
    Role,
    find_broker,
)

DEADLINE_S = 15.0
PASSWORDS = {CONTROLLER_USERNAME: "controller's", "d1": "one's", "d2": "two's", "d.3-x..y_": "three's"}


@dataclass(frozen=True)
class Received:
    """One message as a client got it."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Client:
    """A paho client whose every step waits for the broker's answer."""

    def __init__(
        self,
        endpoint: Endpoint,
        username: str | None,
        password: str | None,
        *,
        client_id: str,
        clean: bool = True,
        will: tuple[str, bytes] | None = None,
        tls: ssl.SSLContext | None = None,
        protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv311,
        comes_back: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._changed = threading.Condition()
        self._answers: list[tuple[bool, bool]] = []
        self._granted: dict[int, list[bool]] = {}
        self.received: list[Received] = []
        self.drops = 0
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=protocol,
            clean_session=clean if protocol is MQTTProtocolVersion.MQTTv311 else None,
            reconnect_on_failure=comes_back,
        )
        self.paho.reconnect_delay_set(1, 1)
        if username is not None:
            self.paho.username_pw_set(username, password)
        if will is not None:
            self.paho.will_set(*will, qos=1, retain=True)
        if tls is not None:
            self.paho.tls_set_context(tls)
        self.paho.on_connect = self._on_connect
        self.paho.on_disconnect = self._on_disconnect
        self.paho.on_subscribe = self._on_subscribe
        self.paho.on_message = self._on_message

    def connect(self) -> bool:
        """Whether the broker lets this client in."""
        self.paho.connect(self._endpoint.host, self._endpoint.port)
        self.paho.loop_start()
        self.wait_for(lambda: bool(self._answers))
        return self._answers[-1][0]

    @property
    def connections(self) -> int:
        """How often the broker has let it in."""
        return sum(accepted for accepted, _ in self._answers)

    @property
    def local_port(self) -> int:
        """This end of its connection."""
        sock = self.paho.socket()
        assert isinstance(sock, socket.socket)
        port: int = sock.getsockname()[1]
        return port

    @property
    def session_present(self) -> bool:
        """Whether the broker knew its session at the last connection."""
        return self._answers[-1][1]

    def subscribe(self, topic: str, qos: int = 1) -> bool:
        """Whether the broker says yes."""
        _, mid = self.paho.subscribe(topic, qos)
        assert mid is not None
        self.wait_for(lambda: mid in self._granted)
        return all(self._granted[mid])

    def publish(self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False) -> None:
        """Send, and at QoS 1 wait for the acknowledgement."""
        self.paho.publish(topic, payload, qos, retain).wait_for_publish(DEADLINE_S)

    def expect(self, topic: str, payload: bytes) -> Received:
        """The first message on a topic with a payload, once it is here."""

        def found() -> Received | None:
            hits = (one for one in self.received if (one.topic, one.payload) == (topic, payload))
            return next(hits, None)

        self.wait_for(lambda: found() is not None)
        message = found()
        assert message is not None
        return message

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something that a callback changes is true."""
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE_S), "the broker did not do it in time"

    def vanish(self) -> None:
        """Lose the connection without saying goodbye."""
        sock = self.paho.socket()
        assert isinstance(sock, socket.socket)
        sock.shutdown(socket.SHUT_RDWR)
        self.wait_for(lambda: self.drops > 0)
        self.paho.loop_stop()

    def freeze(self) -> None:
        """Keep the connection open, but read and write nothing more."""
        self.paho.loop_stop()

    def leave(self) -> None:
        """Disconnect properly."""
        self.paho.disconnect()
        self.paho.loop_stop()

    def _note(self, change: Callable[[], object]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()

    def _on_connect(self, _client: Any, _data: Any, flags: Any, code: Any, _properties: Any) -> None:
        self._note(lambda: self._answers.append((not code.is_failure, bool(flags.session_present))))

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, _code: Any, _properties: Any) -> None:
        def drop() -> None:
            self.drops += 1

        self._note(drop)

    def _on_subscribe(self, _client: Any, _data: Any, mid: int, codes: Any, _properties: Any) -> None:
        self._note(lambda: self._granted.update({mid: [not code.is_failure for code in codes]}))

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        got = Received(message.topic, bytes(message.payload), message.qos, message.retain)
        self._note(lambda: self.received.append(got))


@dataclass
class Site:
    """A running broker, its credentials, and clients for them."""

    broker: EmbeddedBroker
    credentials: CredentialStore
    endpoint: Endpoint
    clients: list[Client] = field(default_factory=list)

    def client(self, username: str, **options: Any) -> Client:
        """A client with the right password, not connected yet."""
        options.setdefault("client_id", username.replace(".", "~"))
        client = Client(self.endpoint, username, PASSWORDS.get(username, f"{username}'s"), **options)
        self.clients.append(client)
        return client

    def connected(self, username: str, **options: Any) -> Client:
        """A client that is let in."""
        client = self.client(username, **options)
        assert client.connect()
        return client

    def departed(self, client: Client) -> None:
        """A client leaves, and the broker has seen it: until then NATS sends to it, and again after 30 s."""
        port = client.local_port
        client.leave()
        assert self.broker.pid is not None
        process = psutil.Process(self.broker.pid)
        wait_until(lambda: all(one.raddr[1:] != (port,) for one in process.net_connections(kind="tcp")))

    def close(self) -> None:
        """Everything ends."""
        for client in self.clients:
            client.leave()
        self.broker.stop()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that no callback tells of."""
    deadline_s = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        pause.wait(0.01)


@pytest.fixture(params=list(BrokerKind), ids=lambda kind: kind.value)
def kind(request: pytest.FixtureRequest) -> BrokerKind:
    """Each kind of broker that is installed."""
    wanted: BrokerKind = request.param
    try:
        return find_broker(wanted)
    except BrokerNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a controller and three devices, one with a name that is awkward in topics."""
    folder = tmp_path_factory.mktemp("enrolled") / "broker"
    store = CredentialStore(folder)
    for username, password in PASSWORDS.items():
        role = Role.CONTROLLER if username == CONTROLLER_USERNAME else Role.DEVICE
        store.add(username, password, role)
    return folder


@pytest.fixture
def credentials(enrolled: Path, tmp_path: Path) -> CredentialStore:
    """A copy of the enrolled ones."""
    shutil.copytree(enrolled, tmp_path / "broker")
    return CredentialStore(tmp_path / "broker")


@pytest.fixture
def open_site(kind: BrokerKind, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Starts brokers that end with the test."""
    sites: list[Site] = []

    def start(credentials: CredentialStore, tls: BrokerTls | None = None) -> Site:
        broker = EmbeddedBroker(BrokerSettings(tmp_path / "broker", tls=tls), credentials, kind)
        sites.append(Site(broker, credentials, broker.start()))
        return sites[-1]

    yield start
    for one in sites:
        one.close()


@pytest.fixture
def site(open_site: Callable[..., Site], credentials: CredentialStore) -> Site:
    """A running broker."""
    return open_site(credentials)


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Waits for something that no callback tells of."""
    return wait_until
