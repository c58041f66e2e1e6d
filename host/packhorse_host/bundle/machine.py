"""The machine that latency is measured on."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from packhorse_agent.contract.measurement import Machine
from packhorse_agent.machine import cpu_model, machine_facts

ARITHMETIC_FEATURES: Final = frozenset(
    {
        "amx_int8", "asimd", "asimddp", "asimdhp", "avx", "avx2", "avx512_bf16", "avx512_fp16", "avx512_vnni",
        "avx512bw", "avx512f", "avx512vl", "avx_vnni", "bf16", "f16c", "fma", "i8mm", "sme", "sve", "sve2",
    }
)  # fmt: skip
"""Flags of /proc/cpuinfo that decide which arithmetic kernels a runtime picks."""


def measuring_machine(runtime: str, runtime_version: str, threads: int, root: Path = Path("/")) -> Machine:
    """What a latency measured here depends on; `root` is where the file system begins."""
    return Machine(
        architecture=machine_facts(root).architecture,
        cpu_model=cpu_model(root),
        cpu_features=cpu_features(root),
        runtime=runtime,
        runtime_version=runtime_version,
        threads=threads,
    )


def cpu_features(root: Path = Path("/")) -> tuple[str, ...]:
    """Those of `ARITHMETIC_FEATURES` that the first processor has; none where the kernel does not say."""
    try:
        cpuinfo = (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ()
    line = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return tuple(sorted(ARITHMETIC_FEATURES.intersection(line[1].split()))) if line else ()


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))
