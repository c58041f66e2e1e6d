"""Real brokers, and links whose events a test waits for."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from packhorse_agent.link import LinkEvent, LinkSettings, Message, MqttLink, Retained, Subscription
from packhorse_agent.link.backoff import Backoff
from packhorse_host.broker import (
    CONTROLLER_USERNAME,
    BrokerKind,
    BrokerNotFoundError,
    BrokerSettings,
    BrokerTls,
    CredentialStore,
    EmbeddedBroker,
    Role,
    find_broker,
)
from tests.helpers import wait_until

FLEET = "farm"
DEVICE = "camera.7"
LINK_TOPIC = f"ph/1/{FLEET}/device/{DEVICE}/link"
DATA_TOPIC = f"ph/1/{FLEET}/device/{DEVICE}/data"
REPORT_TOPIC = f"ph/1/{FLEET}/device/{DEVICE}/report"
TRUST_TOPIC = f"ph/1/{FLEET}/trust"
ONLINE, OFFLINE = b"online", b"offline"

E = TypeVar("E")


@dataclass
class Ear:
    """Collects a link's events; `post` raises what `breaks` names."""

    events: list[LinkEvent] = field(default_factory=list)
    breaks: Callable[[LinkEvent], bool] = lambda event: False

    def post(self, event: LinkEvent) -> None:
        self.events.append(event)
        if self.breaks(event):
            raise RuntimeError("a defect in the receiver")

    def all(self, kind: type[E]) -> list[E]:
        return [event for event in list(self.events) if isinstance(event, kind)]

    def expect(self, kind: type[E], count: int = 1) -> E:
        """The `count`-th event of a kind, once it is here."""
        wait_until(lambda: len(self.all(kind)) >= count)
        return self.all(kind)[count - 1]

    def payloads(self, topic: str) -> list[bytes]:
        return [message.payload for message in self.all(Message) if message.topic == topic]


@dataclass
class Opened:
    """A link and its events."""

    link: MqttLink
    ear: Ear


class Links:
    """Opens links that end with the test."""

    def __init__(self) -> None:
        self.opened: list[Opened] = []

    def make(self, settings: LinkSettings, ear: Ear | None = None) -> Opened:
        ear = ear or Ear()
        backoff = Backoff(minimum_s=0.01, maximum_s=0.05, random=random.Random(7))
        self.opened.append(Opened(MqttLink(settings, ear.post, backoff), ear))
        return self.opened[-1]

    def open(self, settings: LinkSettings, ear: Ear | None = None) -> Opened:
        made = self.make(settings, ear)
        made.link.start()
        return made

    def close(self) -> None:
        for one in self.opened:
            one.link.stop()


def device(port: int, **changes: Any) -> LinkSettings:
    """The settings of a device, right unless `changes` says otherwise."""
    settings: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "client_id": DEVICE,
        "username": DEVICE,
        "password": "device's",
        "subscriptions": (Subscription(TRUST_TOPIC, 1), Subscription(DATA_TOPIC, 0)),
        "will": Retained(LINK_TOPIC, OFFLINE),
        "birth": Retained(LINK_TOPIC, ONLINE),
        "connect_timeout_s": 3.0,
        **changes,
    }
    return LinkSettings(**settings)


def controller(port: int, **changes: Any) -> LinkSettings:
    """The settings of the other side."""
    settings: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "client_id": f"{CONTROLLER_USERNAME}-{FLEET}",
        "username": CONTROLLER_USERNAME,
        "password": "controller's",
        "subscriptions": (
            Subscription(f"ph/1/{FLEET}/device/+/link", 1),
            Subscription(f"ph/1/{FLEET}/device/+/report", 1),
        ),
        **changes,
    }
    return LinkSettings(**settings)


@pytest.fixture(scope="session")
def known_users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A broker folder that lets the two in."""
    folder = tmp_path_factory.mktemp("users") / "broker"
    store = CredentialStore(folder)
    store.add(CONTROLLER_USERNAME, "controller's", Role.CONTROLLER)
    store.add(DEVICE, "device's")
    return folder


@pytest.fixture(params=list(BrokerKind), ids=lambda kind: kind.value)
def kind(request: pytest.FixtureRequest) -> BrokerKind:
    """Each kind of broker that is installed."""
    wanted: BrokerKind = request.param
    try:
        return find_broker(wanted)
    except BrokerNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def open_broker(
    kind: BrokerKind, known_users: Path, tmp_path: Path
) -> Iterator[Callable[..., EmbeddedBroker]]:
    """Starts a broker that ends with the test."""
    brokers: list[EmbeddedBroker] = []

    def start(tls: BrokerTls | None = None) -> EmbeddedBroker:
        shutil.copytree(known_users, tmp_path / "broker")
        folder = tmp_path / "broker"
        broker = EmbeddedBroker(BrokerSettings(folder, tls=tls), CredentialStore(folder), kind)
        broker.start()
        brokers.append(broker)
        return broker

    yield start
    for one in brokers:
        one.stop()


@pytest.fixture
def broker(open_broker: Callable[..., EmbeddedBroker]) -> EmbeddedBroker:
    """A running broker without TLS."""
    return open_broker()


@pytest.fixture
def port(broker: EmbeddedBroker) -> int:
    """Where it listens."""
    return broker.start().port


@pytest.fixture
def links() -> Iterator[Links]:
    """Links that end with the test, and leave no thread behind."""
    opened = Links()
    yield opened
    opened.close()
    assert not [one.name for one in threading.enumerate() if one.name == "mqtt-link"]
