"""What a measured latency depends on, read from the kernel's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse_host.bundle.machine import cpu_features, measuring_machine, usable_cores

X86 = "processor : 0\nmodel name\t: A CPU\nflags\t\t: fpu avx2 fma avx512_vnni sse2\n\nflags : fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd crc32 asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [(X86, ("avx2", "avx512_vnni", "fma")), (ARM, ("asimd", "asimddp")), ("", ())],
)
def test_features_that_decide_on_kernels(tmp_path: Path, cpuinfo: str, features: tuple[str, ...]) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    assert cpu_features(tmp_path) == features


def test_a_kernel_that_does_not_say(tmp_path: Path) -> None:
    assert cpu_features(tmp_path) == ()


def test_this_machine() -> None:
    machine = measuring_machine("onnxruntime", "1.20.0", 2)
    assert machine.architecture
    assert machine.threads == 2
    assert usable_cores() >= 1
