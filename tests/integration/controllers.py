"""A workspace with a published bundle, the controller as a child process, and a device of the real parts."""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.chunks import Want, chunk_count, encode_want
from packhorse_agent.contract.manifest import ArtifactRole, Manifest
from packhorse_agent.contract.messages import LinkStatus, ReportAck
from packhorse_agent.contract.topics import (
    DeviceChannel,
    DeviceTopic,
    TrustTopic,
    WantTopic,
    blob_shard,
)
from packhorse_agent.link import LinkDown, LinkSettings, LinkUp, Message, MqttLink, Subscription
from packhorse_agent.link.backoff import Backoff
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.telemetry.reporter import Reporter, open_spools
from packhorse_agent.telemetry.spool import Limits, Origin
from packhorse_agent.transfer import BlobSpec, Completed, Downloader
from packhorse_agent.trust.keys import DeviceKey, make_signing_request
from packhorse_host.fleet.enrol import enrol_device
from packhorse_host.fleet.opened import open_fleet
from packhorse_host.repository import KeyPlan
from packhorse_host.telemetry.query import ReleaseFigures, release_figures
from packhorse_host.workspace import SETTINGS_FILE, Workspace
from tests.helpers import free_port, wait_until
from tests.host.repository.bundles import make_bundle

FLEET = "farm"
DEVICE = "camera.7"
PROFILE = "raspberry-pi-5"
CONTENT_BYTES = 40 * 64 * 1024 + 17
_START_S = 30.0
_MAIN = "from packhorse_host.cli.app import main; main()"


def make_workspace(folder: Path, kind: str = "auto") -> Workspace:
    """A fleet on a free port, with one bundle of forty chunks published."""
    workspace = Workspace.create(folder / "fleet", FLEET, KeyPlan(1, 1, None), free_port())
    settings = workspace.folder / SETTINGS_FILE
    settings.write_text(settings.read_text().replace('kind = "auto"', f'kind = "{kind}"'))
    bundle = make_bundle(folder / "bundle", content=random.Random(1).randbytes(CONTENT_BYTES))
    workspace.repository().publish([bundle])
    return Workspace.open(workspace.folder)


def model_blob(workspace: Workspace) -> BlobSpec:
    """The published model, as its manifest names it."""
    repository = workspace.repository()
    stream = repository.open_blob(repository.releases()[0].ref.sha256)
    assert stream is not None
    with stream:
        manifest = Manifest.model_validate_json(stream.read())
    model = next(one for one in manifest.artifacts if one.role is ArtifactRole.MODEL)
    return BlobSpec(model.sha256, model.size_bytes, model.chunk_index)


def figures(workspace: Workspace) -> list[ReleaseFigures]:
    """What the controller has stored."""
    with open_fleet(workspace.folder) as fleet, fleet.database.transaction() as connection:
        return release_figures(connection)


def packhorse(*arguments: str) -> subprocess.Popen[bytes]:
    """The command line as a child."""
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


@dataclass
class ControllerProcess:
    """`packhorse serve` on a workspace."""

    workspace: Workspace
    child: subprocess.Popen[bytes] = field(init=False)
    broker: psutil.Process = field(init=False)
    said: dict[str, Any] = field(init=False)

    def start(self) -> None:
        self.child = packhorse("serve", "-w", str(self.workspace.folder), "--json", "--log-level", "warning")
        assert self.child.stdout is not None
        text = b""
        while line := self.child.stdout.readline():
            text += line
            if line == b"}\n":
                self.said = json.loads(text)
                self.broker = self._find_broker()
                return
        raise AssertionError(f"serve ended: {self.child.communicate()[1].decode()}")

    def kill(self) -> None:
        """End it as a crash would; its broker goes with it."""
        self.child.kill()
        self.child.communicate()
        wait_until(lambda: not self.broker.is_running())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; the exit code."""
        if self.child.returncode is None:
            self.child.send_signal(number)
            self.child.communicate(timeout=_START_S)
        return self.child.returncode

    def restarted_broker(self) -> psutil.Process:
        """The broker that took the place of the one that was killed."""
        self.broker = self._find_broker(but_not=self.broker.pid)
        return self.broker

    def _find_broker(self, but_not: int | None = None) -> psutil.Process:
        found = wait_until(lambda: [one for one in self._brokers() if one.pid != but_not], _START_S)
        return found[0]

    def _brokers(self) -> list[psutil.Process]:
        children = psutil.Process(self.child.pid).children(recursive=True)
        return [one for one in children if _serves(one)]


def _serves(process: psutil.Process) -> bool:
    """Not one that is asked for its version, or has just been killed."""
    try:
        return process.name() in ("mosquitto", "nats-server") and "-c" in process.cmdline()
    except psutil.Error:
        return False


class Device:
    """Reports and pulls blobs with the agent's own parts, turn by turn on the test's thread."""

    def __init__(self, workspace: Workspace, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        key = DeviceKey.load_or_create(folder / "device.key")
        with open_fleet(workspace.folder) as fleet:
            request = make_signing_request(key, DEVICE, PROFILE)
            broker = enrol_device(fleet, request, [], "test", time.time()).broker
        self.trust_sets: list[bytes] = []
        self.acks = 0
        self.refused = False
        """Whether the broker does not let it in."""
        self.completed: list[str] = []
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        topics = [
            DeviceTopic(FLEET, DEVICE, DeviceChannel.DATA),
            DeviceTopic(FLEET, DEVICE, DeviceChannel.ACK),
        ]
        settings = LinkSettings(
            host=broker.host,
            port=broker.port,
            client_id=DEVICE,
            username=broker.username,
            password=broker.password,
            subscriptions=(
                Subscription(str(TrustTopic(FLEET)), 1),
                Subscription(str(topics[0]), 0),
                Subscription(str(topics[1]), 1),
            ),
        )
        self._link = MqttLink(settings, self._events.put, Backoff(maximum_s=0.5, random=random.Random(1)))
        self.blobs = BlobStore(folder)
        self.downloader = Downloader(self.blobs, self._send_want, time.monotonic, random.Random(2))
        spools = open_spools(
            folder / "spool",
            Limits(max_bytes=1024 * 1024, max_age_s=3600.0),
            Origin(fleet=FLEET, device_id=DEVICE, boot=1),
            time.monotonic,
            lambda: datetime.now(timezone.utc),
        )
        self.reporter = Reporter(spools, key.sign, self._send_report, time.monotonic)

    def start(self) -> None:
        self._link.start()

    def stop(self) -> None:
        self._link.stop()

    def send_raw(self, envelope: bytes) -> None:
        """Anything, where reports go."""
        assert self._send_report(envelope)

    def say_online(self) -> None:
        """What a device retains on every connection."""
        topic = DeviceTopic(FLEET, DEVICE, DeviceChannel.LINK)
        self._link.publish(str(topic), canonical_json(LinkStatus(online=True)), qos=1, retain=True)

    def run_until(self, condition: Any, deadline_s: float = 30.0) -> None:
        """Work until the condition holds."""

        def turn() -> Any:
            self._turn()
            return condition()

        wait_until(turn, deadline_s)

    def _turn(self) -> None:
        try:
            self._handle(self._events.get(timeout=0.02))
            while True:
                self._handle(self._events.get_nowait())
        except queue.Empty:
            pass
        self.downloader.tick()
        self.reporter.tick()
        self.completed += [one.sha256 for one in self.downloader.poll() if isinstance(one, Completed)]

    def _handle(self, event: Any) -> None:
        if isinstance(event, LinkUp):
            self.downloader.on_connected()
            self.reporter.on_connected()
        elif isinstance(event, LinkDown):
            self.refused = self.refused or " refused: " in event.reason
        elif isinstance(event, Message):
            self._on_message(event)

    def _on_message(self, message: Message) -> None:
        if message.topic.endswith("/trust"):
            self.trust_sets.append(message.payload)
        elif message.topic.endswith("/data"):
            self.downloader.on_frame(message.payload)
        else:
            self.acks += 1
            self.reporter.on_ack(ReportAck.model_validate_json(message.payload))

    def _send_want(self, want: Want) -> None:
        topic = WantTopic(FLEET, blob_shard(want.blob_sha256), DEVICE)
        self._link.publish(str(topic), encode_want(want), qos=1)

    def _send_report(self, envelope: bytes) -> bool:
        topic = DeviceTopic(FLEET, DEVICE, DeviceChannel.REPORT)
        return self._link.publish(str(topic), envelope, qos=1)


def waiting(device: Device) -> int:
    """Reports that the fleet has not stored yet, as far as the device knows."""
    return sum(device.reporter.waiting().values())


def chunks_of(spec: BlobSpec) -> int:
    """Chunks of a blob and of its index levels."""
    return chunk_count(spec.size_bytes) + len(spec.chunk_index)
