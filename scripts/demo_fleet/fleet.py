"""A fleet set up through the two command lines, as a person would."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from demo_fleet.devices import Device
from demo_fleet.processes import Commands, DemoError

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "fashion-mnist"
SLOT, MODEL, VERSION = "classifier", "fashion", "1.0"
_PATIENCE_S = 60.0
_POLL_S = 0.2


def enrol(
    run: Commands, folder: Path, devices: Sequence[Device], configuration: Callable[[Device], str]
) -> None:
    """Enrol devices as a person would, with three commands each."""

    def one(device: Device) -> None:
        home = folder / device.id
        home.mkdir()
        (home / "agent.toml").write_text(configuration(device))
        tags = [part for tag in device.tags for part in ("--tag", tag)]
        paper = (f"{device.id}/request.json", f"{device.id}/enrolment.json")
        run.run("packhorse-agent", "request", "-c", device.config, "-o", paper[0])
        run.run("packhorse", "device", "enroll", "-w", "fleet", paper[0], *tags, "-o", paper[1])
        run.run("packhorse-agent", "accept", "-c", device.config, paper[1])

    with ThreadPoolExecutor(len(devices)) as pool:
        list(pool.map(one, devices))


def agent_toml(device: Device, window_s: int = 1) -> str:
    """The configuration of one agent."""
    return f"""device_id = "{device.id}"
state_folder = "state"
profile = "{device.profile}"
simulate_hardware = true

[slots.{SLOT}]
http = "127.0.0.1:0"

[telemetry]
window_s = {window_s}
"""


def start(run: Commands, devices: Sequence[Device]) -> None:
    """Start the controller and the agents, and wait until all are connected."""
    run.serve("controller", "packhorse", "serve", "-w", "fleet")
    for device in devices:
        run.serve(device.id, "packhorse-agent", "run", "-c", device.config)
    wait_for(run, "the agents", lambda: all(status(run, device)["connected"] for device in devices))


def status(run: Commands, device: Device) -> dict[str, Any]:
    """What an agent says of itself; not connected while it does not answer."""
    try:
        answer: dict[str, Any] = run.ask("packhorse-agent", "status", "-c", device.config)
    except DemoError:
        return {"connected": False, "slots": []}
    return answer


def wait_for(run: Commands, what: str, condition: Callable[[], bool]) -> None:
    """Ask until it is so.

    Raises:
        DemoError: a server has ended, or a minute has passed.
    """
    deadline_s = time.monotonic() + _PATIENCE_S
    while not condition():
        run.check_servers()
        if time.monotonic() > deadline_s:
            raise DemoError(f"waited {_PATIENCE_S:.0f} s for {what} in vain")
        time.sleep(_POLL_S)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
