"""The inventory: facts that a device reports about itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from packhorse_agent import __version__
from packhorse_agent.config import AgentConfig
from packhorse_agent.contract.messages import Inventory, SlotInventory
from packhorse_agent.machine import cpu_model, machine_facts, memory_bytes
from packhorse_agent.profiles import detect_profile


@dataclass(frozen=True)
class PowerAvailability:
    """Which power sources could be opened, and why none could."""

    sources: tuple[str, ...]
    reason: str
    """Empty when there is a source."""


def collect_inventory(
    config: AgentConfig,
    profile: str,
    slots: Sequence[SlotInventory],
    power: PowerAvailability,
    *,
    runtimes: Mapping[str, str],
    now: Callable[[], datetime],
    root: Path = Path("/"),
) -> Inventory:
    """Look at the machine and put all facts together.

    `profile` is the profile's name, `runtimes` runtime → installed version, `now` the wall clock (aware),
    `root` where the machine's file system begins; free storage is that of the state folder's file system.

    Raises:
        OSError: the state folder does not exist.
    """
    machine = machine_facts(root)
    return Inventory(
        at_unix_ms=round(now().timestamp() * 1000),
        agent_version=__version__,
        profile=profile,
        detected_profile=detect_profile(root, machine),
        simulated=config.simulate_hardware,
        architecture=machine.architecture,
        operating_system=machine.operating_system,
        python_version=machine.python_version,
        cpu_model=cpu_model(root),
        cpu_count=os.cpu_count() or 1,
        memory_bytes=memory_bytes(root),
        storage_free_bytes=shutil.disk_usage(config.state_folder).free,
        runtimes=dict(runtimes),
        power_sources=power.sources,
        power_reason=power.reason,
        slots=tuple(slots),
    )
