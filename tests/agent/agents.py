"""Real supervisor processes on hand-made enrolments, and an ear on their broker."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psutil
from paho.mqtt.enums import CallbackAPIVersion

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.enrolment import BrokerAddress, Enrolment
from packhorse_agent.contract.envelope import unseal
from packhorse_agent.contract.messages import LinkStatus, Report
from packhorse_agent.contract.rollout import BundleRef
from packhorse_agent.contract.topics import DeviceChannel, DeviceTopic
from packhorse_agent.control import CONTROL_SOCKET, ControlRequest, ask
from packhorse_agent.deploy.model import Attempt, SlotState
from packhorse_agent.errors import AgentError
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.store.state_file import StateFile
from packhorse_agent.supervisor.identity import ENROLMENT_FILE, KEY_FILE
from packhorse_agent.trust.clock import utc_now
from packhorse_agent.trust.keys import DeviceKey, verify_ed25519
from tests.agent.models import write_bundle
from tests.agent.trust.simulator import FLEET, FleetSimulator
from tests.helpers import wait_until

DEVICE, PROFILE, SLOT = "pi-1", "generic-x86_64", "classifier"
END_WITHIN_S = 8.0


@dataclass
class Device:
    """An enrolled device in `folder`: configuration, key and state; `state` may lie elsewhere."""

    folder: Path
    broker_port: int = 1883
    simulator: FleetSimulator = field(default_factory=lambda: FleetSimulator(now=utc_now()))
    http: str = "127.0.0.1:0"
    state_name: str = "state"

    def __post_init__(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        self.key = DeviceKey.load_or_create(self.state / KEY_FILE)
        (self.state / ENROLMENT_FILE).write_bytes(canonical_json(self.enrolment()))
        self.config.write_text(
            f'state_folder = "{self.state_name}"\ndevice_id = "{DEVICE}"\nprofile = "{PROFILE}"\n'
            f'simulate_hardware = true\n[slots.{SLOT}]\nhttp = "{self.http}"\n[telemetry]\nwindow_s = 1\n'
        )

    @property
    def state(self) -> Path:
        return self.folder / self.state_name

    @property
    def config(self) -> Path:
        return self.folder / "agent.toml"

    def enrolment(self, **changes: Any) -> Enrolment:
        broker = BrokerAddress(host="127.0.0.1", port=self.broker_port, username=DEVICE, password="secret")
        enrolment = Enrolment(
            fleet=FLEET, device_id=DEVICE, broker=broker, root_metadata=self.simulator.roots[0].decode()
        )
        return enrolment.model_copy(update=changes)

    def put_in_service(self, version: str = "1.0") -> None:
        """As if a rollout had committed this version."""
        attempt = self._store(version)
        StateFile(self._slots() / f"{SLOT}.json", SlotState).save(
            SlotState(slot=SLOT, active=attempt, active_committed=True)
        )

    def _slots(self) -> Path:
        folder = self.state / "slots"
        folder.mkdir(exist_ok=True)
        return folder

    def _store(self, version: str) -> Attempt:
        bundle = write_bundle(self.folder / f"bundle-{version}", version=version)
        blobs = BlobStore(self.state)
        sha256 = blobs.add_bytes(bundle.manifest_path.read_bytes())
        for path in bundle.artifacts.values():
            blobs.add_bytes(path.read_bytes())
        size_bytes = bundle.manifest_path.stat().st_size
        reference = BundleRef(target=f"bundles/{version}", sha256=sha256, size_bytes=size_bytes)
        return Attempt(rollout_id="r1", generation=1, model="linear", version=version, bundle=reference)


class AgentProcess:
    """`python -m packhorse_agent.service`; end it with `running`, whatever happens."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._log = device.folder / "agent.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "packhorse_agent.service", str(device.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        """What it says of itself; empty while it does not answer."""
        try:
            return ask(self.device.state / CONTROL_SOCKET, ControlRequest(command="status"))
        except AgentError:
            return {}

    def wait_for(self, **facts: Any) -> dict[str, Any]:
        """Its status, once that holds these facts."""

        def holds() -> dict[str, Any]:
            assert self.process.poll() is None, self.log()
            status = self.status()
            return status if status and facts.items() <= status.items() else {}

        return wait_until(holds, 30, 0.05)

    def serving(self, after: psutil.Process | None = None) -> psutil.Process:
        """Its worker, once that serves; `after` is one that has died, which the agent may not know yet."""

        def worker() -> psutil.Process | None:
            slots = self.status().get("slots") or [{}]
            pid = slots[0]["pid"] if slots[0].get("serving") else None
            return None if pid is None or (after and pid == after.pid) else psutil.Process(pid)

        found = wait_until(worker, 30, 0.05)
        assert found is not None
        return found

    def exit_code(self) -> int:
        """Wait for an end that comes by itself."""
        return self.process.wait(30)

    def terminate(self) -> tuple[int, float]:
        """SIGTERM: the exit code, and the seconds that the end took."""
        begin = time.monotonic()
        self.process.terminate()
        return self.process.wait(30), time.monotonic() - begin

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


@contextmanager
def running(device: Device) -> Iterator[AgentProcess]:
    agent = AgentProcess(device)
    try:
        yield agent
    finally:
        agent.kill()


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


class Ear:
    """Hears everything on a broker, and can say anything."""

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("#", 1)
        subscribed: list[bool] = []
        self._client.on_subscribe = lambda *_: subscribed.append(True)
        self._client.on_message = lambda _c, _d, message: self.heard.append(
            (message.topic, bytes(message.payload))
        )
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        wait_until(lambda: subscribed)

    def say(self, topic: str, payload: bytes, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)

    def online(self) -> bool | None:
        """What the device's link topic says now."""
        topic = str(DeviceTopic(FLEET, DEVICE, DeviceChannel.LINK))
        said = [payload for heard, payload in self.heard if heard == topic]
        return LinkStatus.model_validate_json(said[-1]).online if said else None

    def reports(self, key: DeviceKey) -> list[Report]:
        """What the device sent, each proven to be signed by its key."""
        topic = str(DeviceTopic(FLEET, DEVICE, DeviceChannel.REPORT))
        found = []
        for heard, payload in list(self.heard):
            if heard == topic:
                report = unseal(payload, lambda sig, text: verify_ed25519(key.public_hex, sig, text))
                assert report is not None, "not signed by the device"
                found.append(report)
        return found

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def ear(port: int) -> Iterator[Ear]:
    listener = Ear(port)
    try:
        yield listener
    finally:
        listener.close()


def run_service(config: Path) -> subprocess.CompletedProcess[str]:
    """Run the agent where it is expected to end at once."""
    command = [sys.executable, "-m", "packhorse_agent.service", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
