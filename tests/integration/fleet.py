"""A whole fleet in one folder: a real workspace, a real controller process, real agent processes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from packhorse_agent.contract.messages import DeploymentReport
from packhorse_agent.contract.states import DeploymentState
from packhorse_agent.control import CONTROL_SOCKET, ControlRequest, ask
from packhorse_agent.errors import AgentError
from packhorse_agent.joining import accept_enrolment, request_enrolment
from packhorse_host.broker import CredentialStore, Role
from packhorse_host.fleet.database import load_rollout
from packhorse_host.fleet.devices import load_history
from packhorse_host.fleet.enrol import enrol_device
from packhorse_host.fleet.model import RolloutRecord
from packhorse_host.fleet.opened import open_fleet
from packhorse_host.fleet.rollouts import choose_bundles, make_spec, start_rollout
from packhorse_host.repository import KeyPlan
from packhorse_host.workspace import Workspace
from tests.agent.models import WEIGHTS, linear_golden, linear_model, write_bundle
from tests.helpers import free_port, wait_until

PROFILE, MODEL, SLOT = "generic-x86_64", "linear", "classifier"
EAVESDROPPER, PASSWORD = "_eavesdropper", "eavesdropper-password"
DEADLINE_S = 60.0


class Server:
    """One process of ours, ended whatever happens."""

    def __init__(self, log: Path, *command: str) -> None:
        self._log, self._command = log, command
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self._command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """As a crash or a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def stop(self) -> int:
        """In good order; returns the exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def log(self) -> str:
        return self._log.read_text(errors="replace")


class Agent(Server):
    """A real agent process with its own state folder."""

    def __init__(self, folder: Path, device_id: str) -> None:
        self.folder, self.device_id = folder, device_id
        self.state = folder / "state"
        self.config = folder / "agent.toml"
        self.config.write_text(
            f'device_id = "{device_id}"\nprofile = "{PROFILE}"\nstate_folder = "state"\n'
            f'simulate_hardware = true\n[slots.{SLOT}]\nhttp = "127.0.0.1:0"\n[telemetry]\nwindow_s = 1\n'
        )
        super().__init__(folder / "agent.log", "packhorse_agent.service", str(self.config))

    def status(self) -> dict[str, Any]:
        """What it says of itself; empty while it does not answer."""
        try:
            return ask(self.state / CONTROL_SOCKET, ControlRequest(command="status"))
        except AgentError:
            return {}

    def slot(self) -> dict[str, Any]:
        slots = self.status().get("slots", [])
        return dict(slots[0]) if slots else {}

    def serves(self, version: str) -> bool:
        slot = self.slot()
        return bool(slot.get("serving")) and slot["version"] == version

    def infer(self) -> list[float]:
        """One inference over HTTP; right answers come from numpy."""
        address = urlsplit(self.slot()["endpoint"])
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=DEADLINE_S)
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(WEIGHTS)], "data": [1.0] * len(WEIGHTS)}
        connection.request("POST", f"/v2/models/{SLOT}/infer", json.dumps({"inputs": [tensor]}))
        answer = json.loads(connection.getresponse().read())
        connection.close()
        outputs: list[float] = answer["outputs"][0]["data"]
        return outputs


class Fleet:
    """The host's side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace = Workspace.create(folder / "fleet", "test", KeyPlan(), free_port())
        credentials = CredentialStore(self.workspace.broker_folder)
        credentials.add(EAVESDROPPER, PASSWORD, Role.CONTROLLER)
        self.controller = Server(
            folder / "controller.log", "tests.integration.serve", str(self.workspace.folder)
        )
        self.agents: list[Agent] = []

    @property
    def port(self) -> int:
        return self.workspace.settings.broker.port

    def set_up(self, broker: str, bytes_per_s: int) -> None:
        (self.workspace.folder / "packhorse.toml").write_text(
            f'fleet = "test"\n[broker]\nkind = "{broker}"\nport = {self.port}\n'
            f"[delivery]\nrate_limit_bytes_per_s = {bytes_per_s}\n"
        )

    def enrol(self, device_id: str, *tags: str) -> Agent:
        home = self.folder / device_id
        home.mkdir()
        agent = Agent(home, device_id)
        request = request_enrolment(agent.state, device_id, PROFILE)
        with open_fleet(self.workspace.folder) as fleet:
            enrolment = enrol_device(fleet, request, tags, "test", time.time())
        paper = home / "enrolment.json"
        paper.write_text(enrolment.model_dump_json())
        accept_enrolment(agent.state, paper, device_id)
        self.agents.append(agent)
        return agent

    def publish(self, version: str, *, ballast_bytes: int = 0, broken: bool = False) -> str:
        """A release; `ballast_bytes` make it large, `broken` lets its golden vectors come out wrong."""
        bundle = self.folder / f"bundle-{version}"
        golden = linear_golden(-WEIGHTS if broken else WEIGHTS)
        write_bundle(bundle, version=version, model=_heavy_model(ballast_bytes), golden=golden)
        with open_fleet(self.workspace.folder) as fleet:
            return fleet.repository.publish([bundle])[0].sha256

    def roll_out(self, version: str, *phases: str, rollout_id: str = "", **fields: Any) -> str:
        phases = phases or ("all:share=100%,soak=0s",)
        name = rollout_id or f"r-{version}"
        with open_fleet(self.workspace.folder) as fleet, fleet.database.transaction() as connection:
            bundles = choose_bundles(fleet.repository.releases(), MODEL, version, None)
            spec = make_spec(
                phases,
                id=name,
                slot=SLOT,
                model=MODEL,
                version=version,
                bundles=bundles,
                salt="0" * 32,
                **fields,
            )
            start_rollout(connection, spec, "test", time.time())
        return name

    def rollout(self, rollout_id: str) -> RolloutRecord:
        with open_fleet(self.workspace.folder) as fleet, fleet.database.transaction() as connection:
            return load_rollout(connection, rollout_id)

    def history(self, device_id: str) -> list[DeploymentReport]:
        """Latest first."""
        with open_fleet(self.workspace.folder) as fleet, fleet.database.transaction() as connection:
            return load_history(connection, device_id)

    def last_state(self, device_id: str) -> DeploymentState | None:
        history = self.history(device_id)
        return history[0].state if history else None

    def wait_for(self, rollout_id: str, progress: str) -> RolloutRecord:
        wait_until(lambda: self.rollout(rollout_id).progress.value == progress, DEADLINE_S, 0.1)
        return self.rollout(rollout_id)

    def broker_pid(self) -> int:
        """The broker is the controller's only child."""
        children = Path(f"/proc/{self.controller.pid}/task").glob("*/children")
        pids = [int(pid) for path in children for pid in path.read_text().split()]
        return pids[0]

    def kill_broker(self) -> None:
        os.kill(self.broker_pid(), signal.SIGKILL)

    def stop(self) -> None:
        for server in (*self.agents, self.controller):
            if server.process is not None and server.process.poll() is None:
                server.stop()


def _heavy_model(ballast_bytes: int) -> bytes:
    """The linear model with incompressible bytes in its description, which runtimes skip."""
    import onnx

    model = onnx.load_from_string(linear_model())
    noise = np.random.default_rng(7).integers(0x20, 0x7E, ballast_bytes, dtype=np.uint8)
    model.doc_string = noise.tobytes().decode("ascii")
    serialized: bytes = model.SerializeToString()
    return serialized


@contextmanager
def running_fleet(folder: Path) -> Iterator[Fleet]:
    fleet = Fleet(folder)
    try:
        yield fleet
    finally:
        fleet.stop()
