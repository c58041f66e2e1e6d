"""The demo as a person runs it: what it shows, and what it leaves behind when it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).resolve().parents[2]
FIELDS = {
    "id",
    "profile",
    "release",
    "recipe",
    "state",
    "accuracy_fp32",
    "accuracy",
    "size_fp32_bytes",
    "size_bytes",
    "latency_p50_us",
    "latency_p95_us",
    "latency_p99_us",
    "energy_per_inference_uj",
    "energy_reason",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: the address of a Unix socket holds 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        yield Path(name)


def start_demo(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Its temporary folder lies in `folder`, so that its processes can be told by it."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "scripts"), "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "demo_fleet", *arguments]
    with (folder / "out").open("wb") as out:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)


def processes_in(folder: Path) -> list[psutil.Process]:
    """Everything that was started with this folder in its command line, or works in it."""
    found = []
    for process in psutil.process_iter():
        try:
            where = [process.cwd(), *process.cmdline()]
        except psutil.Error:
            continue
        if any(str(folder) in part for part in where):
            found.append(process)
    return found


def test_every_device_serves_the_release_as_accurately_as_it_was_packed(folder: Path) -> None:
    demo = start_demo(folder, "--json", "result.json")
    assert demo.wait(240) == 0, (folder / "out").read_text()
    devices = json.loads((folder / "result.json").read_text())["devices"]
    assert [one["profile"] for one in devices] == ["raspberry-pi-5", "android-arm64", "jetson-orin-nano"]
    for one in devices:
        assert one.keys() >= FIELDS
        assert one["state"] == "committed"
        assert one["simulated"] is True
        assert one["recipe"] == "static_wi8_ai8"
        assert one["accuracy"] >= one["accuracy_fp32"] - 1.0 >= 90.0
        assert one["size_bytes"] < one["size_fp32_bytes"]
        assert 0 < one["latency_p50_us"] <= one["latency_p95_us"] <= one["latency_p99_us"]
        assert (one["energy_per_inference_uj"] is None) == bool(one["energy_reason"])
    assert processes_in(folder) == []


@pytest.mark.parametrize("step", ["Start controller", "Roll out", "Classify"])
def test_an_interrupted_demo_leaves_no_process_and_no_file(folder: Path, step: str) -> None:
    demo = start_demo(folder)
    wait_until(lambda: step in (folder / "out").read_text(), 120, 0.1)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 130
    wait_until(lambda: not processes_in(folder), 10, 0.1)
    assert [path.name for path in folder.iterdir()] == ["out"]
