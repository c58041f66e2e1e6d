"""What the agent costs while nothing happens, and how long a release takes from `publish` to `committed`.

One real controller with its broker, one real agent, on this machine; the release is the sample model.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import options, publish, spread
from demo_fleet.devices import Device
from demo_fleet.fleet import MODEL, SAMPLE, SLOT, agent_toml, enrol, free_port, start, status
from demo_fleet.processes import Commands, commands

DEVICE = Device("bench-1", "generic-x86_64", ("bench",))
_WINDOW_S = 60


def main() -> None:
    """Measure, print, write."""
    parser = options("Memory and CPU of an idle supervisor; time from publish to committed.")
    parser.add_argument("--idle-s", type=float, default=30.0, help="how long to watch it idle (default 30)")
    parser.add_argument("--releases", type=int, default=3, help="how many releases to time (default 3)")
    parser.add_argument("--agent-bin", type=Path, help="bin/ of an environment with the agent's extra alone")
    parsed = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="packhorse-bench-") as name,
        commands(Path(name), parsed.agent_bin) as run,
    ):
        _prepare(run, Path(name))
        before = _idle(run, parsed.idle_s)
        times_s = [_release(run, f"1.{at}") for at in range(parsed.releases)]
        after = _idle(run, parsed.idle_s)
    lines = [
        ("the agent's Python", _python_of(parsed.agent_bin)),
        ("VmRSS idle, connected, nothing served", f"{before['rss_mib']:.1f} MiB"),
        ("VmRSS idle after the releases", f"{after['rss_mib']:.1f} MiB"),
        ("CPU idle, nothing served", f"{before['cpu_percent']:.2f} % of a core"),
        ("CPU idle, serving", f"{after['cpu_percent']:.2f} % of a core"),
        ("publish → committed", f"{spread(times_s, 2)} s"),
    ]
    figures = {"idle_before": before, "idle_after": after, "publish_to_committed_s": times_s}
    publish(figures, lines, parsed.json)


def _python_of(bin_folder: Path | None) -> str:
    python = str(bin_folder / "python") if bin_folder else sys.executable
    return subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[-1]


def _prepare(run: Commands, folder: Path) -> None:
    port = str(free_port())
    run.run("packhorse", "init", "fleet", "--fleet", "bench", "--unencrypted-keys", "--port", port)
    enrol(run, folder, (DEVICE,), lambda device: agent_toml(device, _WINDOW_S))
    _forget_files()
    start(run, (DEVICE,))


def _forget_files() -> None:
    """Have libraries read from the disk, as after a boot: what pip has just written lies in the page cache in
    large folios, which are mapped whole and count 2 to 3 MiB more.
    """
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        print("page cache kept (not root): VmRSS may count 2 to 3 MiB too much", file=sys.stderr)


def _idle(run: Commands, watch_s: float) -> dict[str, Any]:
    process = psutil.Process(run.pid_of(DEVICE.id))
    time.sleep(3.0)
    before = process.cpu_times()
    time.sleep(watch_s)
    after = process.cpu_times()
    spent_s = after.user + after.system - before.user - before.system
    return {"rss_mib": process.memory_info().rss / 2**20, "cpu_percent": 100.0 * spent_s / watch_s}


def _release(run: Commands, version: str) -> float:
    packed = run.ask(
        *("packhorse", "pack", str(SAMPLE / "model.onnx"), "--name", MODEL, "--version", version),
        *("--profile", DEVICE.profile, "--calibration", str(SAMPLE / "calibration.npz"), "-o", "bundles"),
    )
    began_s = time.perf_counter()
    run.run("packhorse", "publish", "-w", "fleet", packed[0]["bundle"])
    run.run(
        *("packhorse", "rollout", "start", "-w", "fleet", "--model", MODEL, "--release", version),
        *("--slot", SLOT, "--phase", "all:share=100%,soak=0s", "--wait"),
    )
    seconds = time.perf_counter() - began_s
    served = status(run, DEVICE)["slots"][0]["version"]
    if served != version:
        raise RuntimeError(f"{DEVICE.id} serves {served}, not {version}")
    return seconds


if __name__ == "__main__":
    main()
