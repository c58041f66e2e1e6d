"""File trees of machines, as their kernels show them."""

from __future__ import annotations

from pathlib import Path

ORIN_CPUINFO = "".join(
    f"processor\t: {core}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd42\n\n"
    for core in range(6)
)
PHONE_CPUINFO = "".join(
    f"processor\t: {core}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
    for core, part in enumerate(["0xd05", "0xd05", "0xd41", "0xd44"])
)
X86_CPUINFO = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) CPU @ 2.20GHz\n\n"
MEMINFO = "MemTotal:        8126464 kB\nMemFree:          123456 kB\n"


def build_root(
    folder: Path, *, board: str | None = None, android: bool = False, cpuinfo: str = "", meminfo: str = ""
) -> Path:
    """A root folder with what the machine shows; device-tree texts end in a NUL byte."""
    files: dict[str, bytes] = {}
    if board is not None:
        files["proc/device-tree/model"] = board.encode() + b"\0"
    if android:
        files["system/bin/linker64"] = b"\x7fELF"
    if cpuinfo:
        files["proc/cpuinfo"] = cpuinfo.encode()
    if meminfo:
        files["proc/meminfo"] = meminfo.encode()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
