"""Messages become typed arrivals or nothing: no bytes on any topic raise."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from packhorse_agent.config import AgentConfig, MqttSettings
from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.enrolment import BrokerAddress, Enrolment
from packhorse_agent.contract.limits import TRUST_SET_MAX_BYTES
from packhorse_agent.contract.messages import LinkStatus, ReportAck
from packhorse_agent.contract.topics import BlobTopic, DeviceChannel, DeviceTopic, TrustTopic, WantTopic
from packhorse_agent.contract.trustset import encode_trust_set
from packhorse_agent.link import Message
from packhorse_agent.supervisor.connection import (
    AckArrived,
    Connection,
    FrameArrived,
    TrustSetArrived,
    _settings,
)
from packhorse_agent.supervisor.identity import Identity
from packhorse_agent.trust.keys import DeviceKey

FLEET, DEVICE = "farm", "pi-1"
TRUST = str(TrustTopic(FLEET))
DATA = str(DeviceTopic(FLEET, DEVICE, DeviceChannel.DATA))
ACK = str(DeviceTopic(FLEET, DEVICE, DeviceChannel.ACK))


def identity(folder: Path, ca_pem: str | None = None) -> Identity:
    broker = BrokerAddress(host="broker", port=8883, username="u", password="p", tls_ca_pem=ca_pem)
    enrolment = Enrolment(fleet=FLEET, device_id=DEVICE, broker=broker, root_metadata="{}")
    return Identity(DeviceKey.load_or_create(folder / "device.key"), enrolment)


def config(folder: Path, **mqtt: object) -> AgentConfig:
    return AgentConfig(state_folder=folder, profile="p", mqtt=MqttSettings.model_validate(mqtt))


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Connection:
    folder = tmp_path_factory.mktemp("state")
    return Connection(config(folder), identity(folder), lambda event: None)


def test_a_trust_set_arrives(connection: Connection) -> None:
    files = {"timestamp.json": b"{}"}
    assert connection.read(Message(TRUST, encode_trust_set(files))) == TrustSetArrived(files)


def test_a_frame_arrives_unread(connection: Connection) -> None:
    assert connection.read(Message(DATA, b"anything")) == FrameArrived(b"anything")


def test_an_acknowledgement_arrives(connection: Connection) -> None:
    ack = ReportAck(stream="state", boot=3, sequence=9)
    assert connection.read(Message(ACK, canonical_json(ack))) == AckArrived(ack)


@pytest.mark.parametrize(
    "topic",
    [
        str(TrustTopic("forest")),
        str(DeviceTopic("forest", DEVICE, DeviceChannel.DATA)),
        str(DeviceTopic(FLEET, "pi-2", DeviceChannel.DATA)),
        str(DeviceTopic(FLEET, DEVICE, DeviceChannel.LINK)),
        str(DeviceTopic(FLEET, DEVICE, DeviceChannel.REPORT)),
        str(WantTopic(FLEET, 0, DEVICE)),
        str(BlobTopic(FLEET, "0" * 64)),
        "",
        "ph/1/farm",
        TRUST + "/more",
        TRUST.upper(),
        "$SYS/broker",
        "\0",
    ],
)
def test_what_is_not_for_this_device_is_nothing(connection: Connection, topic: str) -> None:
    content = encode_trust_set({"timestamp.json": b"{}"})
    assert connection.read(Message(topic, content)) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"stream": "state", "boot": -1, "sequence": 1}',
        b'{"stream": "state", "boot": 1, "sequence": 1e999}',
        b'{"stream": "other", "boot": 1, "sequence": 1}',
        b'{"format": 2, "stream": "state", "boot": 1, "sequence": 1}',
        b"\xff" * 10,
    ],
)
def test_an_acknowledgement_that_is_none_is_dropped(connection: Connection, content: bytes) -> None:
    assert connection.read(Message(ACK, content)) is None


def test_a_trust_set_that_is_too_large_is_dropped(connection: Connection) -> None:
    framed = encode_trust_set({"timestamp.json": b"{}"})
    assert connection.read(Message(TRUST, framed + b"\0" * TRUST_SET_MAX_BYTES)) is None


@given(topic=st.sampled_from([TRUST, DATA, ACK]) | st.text(max_size=80), content=st.binary(max_size=4096))
@example(topic=TRUST, content=encode_trust_set({"timestamp.json": b"{}"})[:-1])
def test_no_bytes_raise(connection: Connection, topic: str, content: bytes) -> None:
    connection.read(Message(topic, content))


@given(at=st.integers(0, 200), value=st.integers(0, 255))
def test_no_changed_byte_raises(connection: Connection, at: int, value: int) -> None:
    framed = bytearray(encode_trust_set({"timestamp.json": b"{}", "1.root.json": b"{}"}))
    framed[at % len(framed)] = value
    connection.read(Message(TRUST, bytes(framed)))


def test_the_configuration_overrides_the_enrolment(tmp_path: Path) -> None:
    settings = _settings(config(tmp_path, host="proxy", port=1884), identity(tmp_path))
    assert (settings.host, settings.port) == ("proxy", 1884)
    assert (settings.client_id, settings.username, settings.password) == (DEVICE, "u", "p")
    assert settings.tls is None


def test_the_will_is_what_the_birth_says_the_other_way(tmp_path: Path) -> None:
    settings = _settings(config(tmp_path), identity(tmp_path))
    assert settings.will and settings.birth
    assert settings.will.topic == settings.birth.topic
    assert LinkStatus.model_validate_json(settings.will.payload).online is False
    assert LinkStatus.model_validate_json(settings.birth.payload).online is True


def test_an_authority_in_the_enrolment_means_tls(tmp_path: Path) -> None:
    settings = _settings(config(tmp_path), identity(tmp_path, "-----BEGIN CERTIFICATE-----\n"))
    assert settings.tls and settings.tls.ca_file
    assert settings.tls.ca_file.read_text() == "-----BEGIN CERTIFICATE-----\n"


def test_a_client_certificate_alone_means_tls_with_the_systems_authorities(tmp_path: Path) -> None:
    paths = {"client_certificate": tmp_path / "c.pem", "client_key": tmp_path / "k.pem"}
    settings = _settings(config(tmp_path, **paths), identity(tmp_path))
    assert settings.tls and settings.tls.ca_file is None
    assert (settings.tls.certificate_file, settings.tls.key_file) == tuple(paths.values())
