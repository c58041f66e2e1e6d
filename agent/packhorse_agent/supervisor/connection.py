"""The device's side of the link: what it subscribes to, and messages as typed events."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from packhorse_agent.config import AgentConfig
from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.chunks import Want, encode_want
from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.messages import LinkStatus, ReportAck
from packhorse_agent.contract.topics import (
    DeviceChannel,
    DeviceTopic,
    TrustTopic,
    WantTopic,
    blob_shard,
    parse_topic,
)
from packhorse_agent.contract.trustset import decode_trust_set
from packhorse_agent.link import (
    LinkEvent,
    LinkSettings,
    Message,
    MqttLink,
    Retained,
    Subscription,
    TlsSettings,
)
from packhorse_agent.link.backoff import Backoff
from packhorse_agent.store.durable import write_durable
from packhorse_agent.supervisor.identity import Identity

_CA_FILE = "broker-ca.pem"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrustSetArrived:
    """Metadata files, not yet verified."""

    files: Mapping[str, bytes]


@dataclass(frozen=True)
class FrameArrived:
    """A chunk or a reply, not yet verified."""

    frame: bytes


@dataclass(frozen=True)
class AckArrived:
    """The host has stored reports."""

    ack: ReportAck


Arrival = TrustSetArrived | FrameArrived | AckArrived


class Connection:
    """The link of one device."""

    def __init__(self, config: AgentConfig, identity: Identity, post: Callable[[LinkEvent], None]) -> None:
        self._fleet, self._device_id = identity.fleet, identity.device_id
        self._link = MqttLink(_settings(config, identity), post, Backoff(random=random.Random()))

    @property
    def connected(self) -> bool:
        """Whether the broker is there now."""
        return self._link.connected

    def start(self) -> None:
        """Begin to connect."""
        self._link.start()

    def stop(self) -> None:
        """Say goodbye and leave."""
        self._link.stop()

    def send_want(self, want: Want) -> None:
        """Ask the host for chunks; without a connection the request is lost, and made again later."""
        topic = WantTopic(self._fleet, blob_shard(want.blob_sha256), self._device_id)
        self._link.publish(str(topic), encode_want(want), qos=1)

    def send_report(self, envelope: bytes) -> bool:
        """Hand a sealed report to the link; False when there is no connection."""
        topic = DeviceTopic(self._fleet, self._device_id, DeviceChannel.REPORT)
        return self._link.publish(str(topic), envelope, qos=1)

    def read(self, message: Message) -> Arrival | None:
        """Type a message; None (logged) for what is not ours or malformed."""
        topic = parse_topic(message.topic)
        try:
            if isinstance(topic, TrustTopic) and topic.fleet == self._fleet:
                return TrustSetArrived(decode_trust_set(message.payload))
            if isinstance(topic, DeviceTopic) and self._is_ours(topic):
                return _from_channel(topic.channel, message.payload)
        except (MalformedMessageError, ValidationError) as error:
            _log.warning("message on %s dropped: %s", message.topic, error)
        return None

    def _is_ours(self, topic: DeviceTopic) -> bool:
        return (topic.fleet, topic.device_id) == (self._fleet, self._device_id)


def _from_channel(channel: DeviceChannel, payload: bytes) -> Arrival | None:
    if channel is DeviceChannel.DATA:
        return FrameArrived(payload)
    if channel is DeviceChannel.ACK:
        return AckArrived(ReportAck.model_validate_json(payload))
    return None


def _settings(config: AgentConfig, identity: Identity) -> LinkSettings:
    broker = identity.enrolment.broker
    link_topic = str(DeviceTopic(identity.fleet, identity.device_id, DeviceChannel.LINK))
    return LinkSettings(
        host=config.mqtt.host or broker.host,
        port=config.mqtt.port or broker.port,
        client_id=identity.device_id,
        username=broker.username,
        password=broker.password,
        tls=_tls(config, broker.tls_ca_pem),
        subscriptions=(
            Subscription(str(TrustTopic(identity.fleet)), 1),
            Subscription(str(DeviceTopic(identity.fleet, identity.device_id, DeviceChannel.DATA)), 0),
            Subscription(str(DeviceTopic(identity.fleet, identity.device_id, DeviceChannel.ACK)), 1),
        ),
        will=Retained(link_topic, canonical_json(LinkStatus(online=False))),
        birth=Retained(link_topic, canonical_json(LinkStatus(online=True))),
    )


def _tls(config: AgentConfig, ca_pem: str | None) -> TlsSettings | None:
    certificate, key = config.mqtt.client_certificate, config.mqtt.client_key
    if ca_pem is None and certificate is None:
        return None
    ca_file: Path | None = None
    if ca_pem is not None:
        ca_file = config.state_folder / _CA_FILE
        if not ca_file.exists() or ca_file.read_bytes() != ca_pem.encode():
            write_durable(ca_file, ca_pem.encode())
    return TlsSettings(ca_file, certificate, key)
