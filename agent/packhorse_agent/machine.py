"""Facts about the machine that the program runs on; `root` is where its file system begins."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

_ANDROID_MARK = "system/bin/linker64"  # every 64-bit Android has it, and lets every application see it
_SAME_ARCHITECTURE = {"arm64": "aarch64", "amd64": "x86_64", "armv8l": "armv7l"}
_FILE_MAX_BYTES = 1024 * 1024
_ARM = "0x41"
_ARM_CORES = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
}
"""Part numbers of ARM's own cores: MIDR_EL1 in their technical reference manuals."""


@dataclass(frozen=True)
class MachineFacts:
    """What a profile's compatibility is checked against."""

    architecture: str
    operating_system: str
    python_version: str


def machine_facts(root: Path = Path("/")) -> MachineFacts:
    """Architecture and operating system (as profiles spell them) and the version of this Python."""
    architecture = platform.machine().lower()
    architecture = _SAME_ARCHITECTURE.get(architecture, architecture)
    if architecture == "aarch64" and sys.maxsize < 2**32:
        architecture = "armv7l"  # a 32-bit userland on a 64-bit kernel gets no 64-bit wheels
    android = os.path.exists(root / _ANDROID_MARK)  # noqa: PTH110 - Path.exists raises where access is denied
    system = "android" if android else platform.system().lower()
    return MachineFacts(architecture, system, platform.python_version())


def device_tree_model(root: Path = Path("/")) -> str:
    """The board's name as its firmware gives it; empty where there is no device tree."""
    return _read(root / "proc/device-tree/model").rstrip("\0\n")


def cpu_model(root: Path = Path("/")) -> str:
    """The processor's name, or the kinds of its cores; `unknown` where the kernel does not say."""
    cpuinfo = _read(root / "proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if named:
        return named[1].strip()
    makers = re.findall(r"^CPU implementer\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    parts = re.findall(r"^CPU part\s*:\s*(\S+)", cpuinfo, re.MULTILINE)
    kinds = dict.fromkeys(_core_name(maker, part) for maker, part in zip(makers, parts, strict=False))
    return " + ".join(kinds) or "unknown"


def memory_bytes(root: Path = Path("/")) -> int:
    """The machine's memory; 0 where the kernel does not say."""
    total = re.search(r"^MemTotal:\s+(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    return int(total[1]) * 1024 if total else 0


def _core_name(maker: str, part: str) -> str:
    known = _ARM_CORES.get(part) if maker == _ARM else None
    return known or f"implementer {maker} part {part}"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_MAX_BYTES).decode(errors="replace")
    except OSError:
        return ""
