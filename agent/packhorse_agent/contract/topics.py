"""MQTT topics as two-way types; no other module spells one.

Layout, at most five slashes::

    ph/1/FLEET/trust                      retained, host to all: the trust set
    ph/1/FLEET/device/DEVICE/report       device to host: signed report
    ph/1/FLEET/device/DEVICE/link         device to host, retained: online or (last will) offline
    ph/1/FLEET/device/DEVICE/ack          host to device: how far reports are stored
    ph/1/FLEET/device/DEVICE/data         host to device: chunks and transfer replies
    ph/1/FLEET/want/SHARD/DEVICE          device to host: a request for chunks
    ph/1/FLEET/blob/SHA256                host to all askers: merged sending of one blob
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from packhorse_agent.contract.limits import BLOB_SHARDS

ROOT = "ph/1"
_NAME = r"[a-z0-9][a-z0-9._-]{0,62}"
_DEVICE = re.compile(rf"{ROOT}/({_NAME})/device/({_NAME})/(report|link|ack|data)")
_WANT = re.compile(rf"{ROOT}/({_NAME})/want/([0-9a-f])/({_NAME})")
_BLOB = re.compile(rf"{ROOT}/({_NAME})/blob/([0-9a-f]{{64}})")
_TRUST = re.compile(rf"{ROOT}/({_NAME})/trust")


class DeviceChannel(str, Enum):
    """The leaves under one device."""

    REPORT = "report"
    LINK = "link"
    ACK = "ack"
    DATA = "data"


@dataclass(frozen=True)
class TrustTopic:
    """Where the trust set is retained."""

    fleet: str

    def __str__(self) -> str:
        return f"{ROOT}/{self.fleet}/trust"


@dataclass(frozen=True)
class DeviceTopic:
    """One channel of one device; `device_id="+"` makes the host's subscription filter."""

    fleet: str
    device_id: str
    channel: DeviceChannel

    def __str__(self) -> str:
        return f"{ROOT}/{self.fleet}/device/{self.device_id}/{self.channel.value}"


@dataclass(frozen=True)
class WantTopic:
    """Where one device asks for chunks of blobs in one shard (0-15)."""

    fleet: str
    shard: int
    device_id: str

    def __str__(self) -> str:
        return f"{ROOT}/{self.fleet}/want/{self.shard:x}/{self.device_id}"

    @staticmethod
    def filter(fleet: str) -> str:
        """The subscription that sees every request of a fleet."""
        return f"{ROOT}/{fleet}/want/+/+"


@dataclass(frozen=True)
class BlobTopic:
    """Where one blob is sent to all who ask for it at the same time."""

    fleet: str
    blob_sha256: str

    def __str__(self) -> str:
        return f"{ROOT}/{self.fleet}/blob/{self.blob_sha256}"


Topic = TrustTopic | DeviceTopic | WantTopic | BlobTopic


def parse_topic(text: str) -> Topic | None:
    """Read a topic; None when it is none of ours. Law: `parse_topic(str(t)) == t`."""
    if match := _DEVICE.fullmatch(text):
        return DeviceTopic(match[1], match[2], DeviceChannel(match[3]))
    if match := _WANT.fullmatch(text):
        return WantTopic(match[1], int(match[2], 16), match[3])
    if match := _BLOB.fullmatch(text):
        return BlobTopic(match[1], match[2])
    if match := _TRUST.fullmatch(text):
        return TrustTopic(match[1])
    return None


def blob_shard(blob_sha256: str) -> int:
    """The shard (0-15) that requests for a blob go to."""
    return int(blob_sha256[:2], 16) % BLOB_SHARDS
