"""The inventory says what the machine is, and what the agent was told."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from packhorse_agent import __version__
from packhorse_agent.config import AgentConfig
from packhorse_agent.contract.messages import Inventory, SlotInventory
from packhorse_agent.inventory import PowerAvailability, collect_inventory
from tests.agent.machines import MEMINFO, X86_CPUINFO, build_root

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=timezone.utc)
NO_POWER = PowerAvailability((), "no INA3221 on this machine")
SLOT = SlotInventory(
    slot="detector", model=None, version=None, manifest_sha256=None, serving=False, endpoint="unix:/s.sock"
)


def test_all_facts_are_collected(tmp_path: Path) -> None:
    root = build_root(tmp_path / "root", cpuinfo=X86_CPUINFO, meminfo=MEMINFO, android=True)
    config = AgentConfig(state_folder=tmp_path, profile="raspberry-pi-5", simulate_hardware=True)
    runtimes = {"onnxruntime": "1.23.0"}
    inventory = collect_inventory(
        config, "raspberry-pi-5", [SLOT], NO_POWER, runtimes=runtimes, now=lambda: NOON, root=root
    )
    assert inventory.at_unix_ms == 1_767_355_200_000
    assert (inventory.profile, inventory.simulated) == ("raspberry-pi-5", True)
    assert inventory.agent_version == __version__
    assert inventory.operating_system == "android"
    assert inventory.cpu_model == "Intel(R) Xeon(R) CPU @ 2.20GHz"
    assert inventory.memory_bytes == 8126464 * 1024
    assert inventory.storage_free_bytes > 0
    assert inventory.cpu_count >= 1
    assert inventory.runtimes == runtimes
    assert (inventory.power_sources, inventory.power_reason) == ((), "no INA3221 on this machine")
    assert inventory.slots == (SLOT,)
    assert Inventory.model_validate_json(inventory.model_dump_json()) == inventory


def test_without_a_state_folder_there_is_no_inventory(tmp_path: Path) -> None:
    config = AgentConfig(state_folder=tmp_path / "none", profile="raspberry-pi-5")
    with pytest.raises(FileNotFoundError):
        collect_inventory(config, "raspberry-pi-5", [], NO_POWER, runtimes={}, now=lambda: NOON)
