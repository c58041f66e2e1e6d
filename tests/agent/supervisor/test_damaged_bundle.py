"""A bundle that serves and is damaged on the disk: the agent fetches it again from a real host and serves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.messages import DeploymentReport, ReportAck
from packhorse_agent.contract.states import DeploymentState, FailureReason
from packhorse_agent.contract.topics import DeviceChannel, DeviceTopic, WantTopic, parse_topic
from packhorse_host.delivery import ChunkServer
from tests.agent.agents import DEVICE, SLOT, Device, Ear, ear, running
from tests.agent.trust.simulator import FLEET
from tests.fakes.blobs import MemorySource
from tests.helpers import wait_until
from tests.mosquitto import Mosquitto


class Host:
    """Serves chunks of what the device held before it was damaged, and acknowledges its reports."""

    def __init__(self, device: Device, listener: Ear) -> None:
        self.device = device
        self.acknowledged = 0
        self.source = MemorySource([])
        self.source.content = {path.name: path.read_bytes() for path in (device.state / "blobs").iterdir()}
        self.listener = listener
        self.server = ChunkServer(self.source, listener.say, FLEET, time.monotonic)
        self._heard = 0

    def work(self) -> None:
        """Answer what has been asked."""
        heard = self.listener.heard[self._heard :]
        self._heard += len(heard)
        for topic, payload in heard:
            if isinstance(want := parse_topic(topic), WantTopic):
                self.server.on_want(want, payload)
        self.server.tick()
        reports = self.listener.reports(self.device.key)
        for report in reports[self.acknowledged :]:
            ack = ReportAck(stream=report.stream, boot=report.boot, sequence=report.sequence)
            self.listener.say(str(DeviceTopic(FLEET, DEVICE, DeviceChannel.ACK)), canonical_json(ack))
        self.acknowledged = len(reports)


def model(device: Device) -> Path:
    """The largest blob."""
    return max((device.state / "blobs").iterdir(), key=lambda path: path.stat().st_size)


def damage_model(device: Device) -> None:
    path = model(device)
    path.write_bytes(b"\0" * path.stat().st_size)


def lose_model(device: Device) -> None:
    model(device).unlink()


def damage_manifest_and_model(device: Device) -> None:
    damage_model(device)
    for path in (device.state / "blobs").iterdir():
        if b'"artifacts"' in path.read_bytes():
            path.write_bytes(path.read_bytes()[:-1])


@contextmanager
def served_by_host(device: Device, port: int) -> Iterator[tuple[Ear, Host]]:
    device.put_in_service()
    with ear(port) as listener:
        yield listener, Host(device, listener)


@pytest.mark.parametrize("damage", [damage_model, lose_model, damage_manifest_and_model])
def test_what_was_damaged_while_the_agent_was_down_is_fetched_again(
    tmp_path: Path, mosquitto: Mosquitto, damage: Callable[[Device], None]
) -> None:
    device = Device(tmp_path, mosquitto.port)
    with served_by_host(device, mosquitto.port) as (listener, host):
        damage(device)
        with running(device) as agent:

            def serving() -> bool:
                host.work()
                slots = agent.status().get("slots") or [{}]
                return bool(slots[0].get("serving"))

            wait_until(serving, 60)
            assert "damaged on the disk" in agent.log()

            def reported() -> bool:
                host.work()
                return {FailureReason.DIGEST_MISMATCH, None} <= reasons(listener, device)

            wait_until(reported, 30)


def reasons(listener: Ear, device: Device) -> set[FailureReason | None]:
    """Of what the device reported of its committed bundle."""
    items = [item for report in listener.reports(device.key) for item in report.items]
    mine = [item for item in items if isinstance(item, DeploymentReport) and item.slot == SLOT]
    return {item.reason for item in mine if item.state is DeploymentState.COMMITTED}


def test_damage_under_a_running_agent_is_mended_when_its_worker_dies(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    device = Device(tmp_path, mosquitto.port)
    with served_by_host(device, mosquitto.port) as (_, host), running(device) as agent:
        worker = agent.serving()
        damage_model(device)
        worker.kill()

        def serving_again() -> bool:
            host.work()
            slots = agent.status().get("slots") or [{}]
            return bool(slots[0].get("serving")) and slots[0]["pid"] != worker.pid

        wait_until(serving_again, 60)
