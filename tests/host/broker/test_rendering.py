"""Configuration as text: what is allowed, what is quoted, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.contract.topics import (
    BlobTopic,
    DeviceChannel,
    DeviceTopic,
    Topic,
    TrustTopic,
    WantTopic,
)
from packhorse_host.broker import (
    CONTROLLER_USERNAME,
    BrokerSettings,
    BrokerTls,
    Credential,
    Endpoint,
    Role,
)
from packhorse_host.broker.access import access_of
from packhorse_host.broker.mosquitto import render as render_mosquitto
from packhorse_host.broker.nats import render as render_nats
from packhorse_host.broker.nats import subject_filter
from packhorse_host.errors import ConfigError

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
SETTINGS = BrokerSettings(Path("/var/lib/packhorse"), port=1883)


def credential(username: str) -> Credential:
    return Credential(
        username=username,
        role=Role.CONTROLLER if username.startswith("_") else Role.DEVICE,
        pbkdf2_sha512="$7$1000$c2FsdHNhbHRzYWx0$aGFzaA==",
        bcrypt="$2b$06$HvXoESWgqoHqUUsmDVXmT.7lDFNZY8bDyUsbsw8XCqvDDZbiCPSCe",
    )


def matches(pattern: str, topic: str) -> bool:
    """MQTT 3.1.1, 4.7."""
    wanted, levels = pattern.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        levels = levels[: len(wanted)] if len(levels) >= len(wanted) else levels
    return len(wanted) == len(levels) and all(
        one in ("+", level) for one, level in zip(wanted, levels, strict=True)
    )


def heard(fleet: str, device: str) -> list[Topic]:
    down = (DeviceChannel.DATA, DeviceChannel.ACK)
    return [
        TrustTopic(fleet),
        BlobTopic(fleet, "0f" * 32),
        *(DeviceTopic(fleet, device, channel) for channel in down),
    ]


def said(fleet: str, device: str) -> list[Topic]:
    up = (DeviceChannel.REPORT, DeviceChannel.LINK)
    return [WantTopic(fleet, 15, device), *(DeviceTopic(fleet, device, channel) for channel in up)]


@given(NAMES, NAMES, NAMES)
def test_a_device_may_do_what_the_contract_asks_and_nothing_as_another(
    fleet: str, device: str, other: str
) -> None:
    access = access_of(Role.DEVICE, device)

    def may_publish(topic: Topic) -> bool:
        return any(matches(one, str(topic)) for one in access.publish)

    def may_hear(topic: Topic) -> bool:
        return any(matches(one, str(topic)) for one in access.subscribe)

    assert all(map(may_publish, said(fleet, device)))
    assert all(map(may_hear, heard(fleet, device)))
    assert not may_publish(TrustTopic(fleet))
    assert not may_publish(BlobTopic(fleet, "0f" * 32))
    assert not may_hear(WantTopic(fleet, 15, device))
    if other != device:
        assert not any(map(may_publish, said(fleet, other)))
        assert not any(may_hear(DeviceTopic(fleet, other, channel)) for channel in DeviceChannel)


@given(NAMES, NAMES)
def test_a_controller_may_do_everything(fleet: str, device: str) -> None:
    access = access_of(Role.CONTROLLER, CONTROLLER_USERNAME)
    for topic in (*heard(fleet, device), *said(fleet, device)):
        assert matches(access.publish[0], str(topic))
        assert matches(access.subscribe[0], str(topic))


@given(st.lists(NAMES, min_size=1, max_size=6))
def test_a_subject_has_as_many_levels_as_its_topic_and_gives_it_back(levels: list[str]) -> None:
    subject = subject_filter("/".join(levels))
    assert subject.replace("//", "\0").replace(".", "/").replace("\0", ".") == "/".join(levels)
    assert subject.count(".") == len(levels) - 1


def test_wildcards_become_those_of_nats() -> None:
    assert subject_filter("ph/1/+/device/a.b/#") == "ph.1.*.device.a//b.>"


def test_mosquitto_knows_devices_by_pattern_and_controllers_by_name() -> None:
    users = [credential(CONTROLLER_USERNAME), credential("d1")]
    files = {one.name: one.text for one in render_mosquitto(SETTINGS, 1883, users)}
    assert files["mosquitto.access"].splitlines() == [
        "pattern write ph/1/+/device/%u/#",
        "pattern write ph/1/+/want/+/%u",
        "pattern read ph/1/+/trust",
        "pattern read ph/1/+/blob/+",
        "pattern read ph/1/+/device/%u/#",
        "user _controller",
        "topic write ph/1/#",
        "topic read ph/1/#",
    ]
    assert files["mosquitto.passwords"].splitlines() == [
        "_controller:$7$1000$c2FsdHNhbHRzYWx0$aGFzaA==",
        "d1:$7$1000$c2FsdHNhbHRzYWx0$aGFzaA==",
    ]
    lines = files["mosquitto.conf"].splitlines()
    assert "listener 1883 127.0.0.1" in lines
    assert "allow_anonymous false" in lines


def test_nats_lets_its_users_in_over_mqtt_only() -> None:
    (file,) = render_nats(SETTINGS, 1883, [credential("a.b")])
    (user,) = (line for line in file.text.splitlines() if "user:" in line)
    assert 'allowed_connection_types: ["MQTT"]' in user
    assert 'publish: ["ph.1.*.device.a//b.>", "ph.1.*.want.*.a//b"]' in user


@pytest.mark.parametrize("render", [render_mosquitto, render_nats])
def test_tls_is_passed_through(render: type) -> None:
    tls = BrokerTls(Path("/k/c.pem"), Path("/k/c.key"), Path("/k/ca.pem"), require_client_certificate=True)
    text = "".join(one.text for one in render(BrokerSettings(Path("/var/lib/packhorse"), tls=tls), 8883, []))
    for name in ("/k/c.pem", "/k/c.key", "/k/ca.pem"):
        assert name in text
    assert "require_certificate true" in text or "verify: true" in text


@pytest.mark.parametrize("render", [render_mosquitto, render_nats])
@pytest.mark.parametrize("folder", ["/a\nallow_anonymous true", "/a\r", "/a\x1b", "/a\udcff"])
def test_a_path_that_could_smuggle_in_a_line_is_refused(render: type, folder: str) -> None:
    with pytest.raises(ConfigError, match="cannot hold this path"):
        render(BrokerSettings(Path(folder)), 1883, [])


@pytest.mark.parametrize("host", ["", " ", "a b", "0.0.0.0\nallow_anonymous true", "a;b", '"'])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="not an address"):
        BrokerSettings(Path("/a"), host=host)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match="port"):
        BrokerSettings(Path("/a"), port=port)


def test_an_endpoint_reads_as_people_write_it() -> None:
    assert str(Endpoint("localhost", 1883)) == "localhost:1883"
    assert str(Endpoint("::1", 1883)) == "[::1]:1883"
