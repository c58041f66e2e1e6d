"""Facts about a machine, read from its file system."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from packhorse_agent.machine import cpu_model, device_tree_model, machine_facts, memory_bytes
from tests.agent.machines import MEMINFO, ORIN_CPUINFO, PHONE_CPUINFO, X86_CPUINFO, build_root


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (X86_CPUINFO, "Intel(R) Xeon(R) CPU @ 2.20GHz"),
        (ORIN_CPUINFO, "Cortex-A78AE"),
        (PHONE_CPUINFO, "Cortex-A55 + Cortex-A78 + Cortex-X1"),
        ("CPU implementer\t: 0x51\nCPU part\t: 0x001\n", "implementer 0x51 part 0x001"),
        ("", "unknown"),
        ("\x00\xff nonsense", "unknown"),
    ],
)
def test_the_processor_is_named_by_its_model_or_its_cores(
    tmp_path: Path, cpuinfo: str, expected: str
) -> None:
    assert cpu_model(build_root(tmp_path, cpuinfo=cpuinfo)) == expected


def test_memory_is_counted_in_bytes(tmp_path: Path) -> None:
    assert memory_bytes(build_root(tmp_path, meminfo=MEMINFO)) == 8126464 * 1024
    assert memory_bytes(tmp_path / "nothing") == 0


def test_the_board_is_read_without_its_nul_byte(tmp_path: Path) -> None:
    root = build_root(tmp_path, board="Raspberry Pi 5 Model B Rev 1.0")
    assert device_tree_model(root) == "Raspberry Pi 5 Model B Rev 1.0"
    assert device_tree_model(tmp_path / "nothing") == ""


def test_android_is_known_by_its_linker(tmp_path: Path) -> None:
    assert machine_facts(build_root(tmp_path / "phone", android=True)).operating_system == "android"
    assert machine_facts(tmp_path).operating_system == "linux"


@pytest.mark.parametrize(
    ("kernel", "architecture"),
    [
        ("aarch64", "aarch64"),
        ("arm64", "aarch64"),
        ("AMD64", "x86_64"),
        ("armv8l", "armv7l"),
        ("riscv64", "riscv64"),
    ],
)
def test_architectures_are_spelled_as_in_profiles(
    monkeypatch: pytest.MonkeyPatch, kernel: str, architecture: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: kernel)
    assert machine_facts().architecture == architecture


def test_a_32_bit_userland_on_a_64_bit_kernel_is_armv7l(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert machine_facts().architecture == "armv7l"


def test_this_machine_tells_all_of_it() -> None:
    assert memory_bytes() > 2**26
    assert cpu_model() != "unknown"
    assert machine_facts().python_version == platform.python_version()
