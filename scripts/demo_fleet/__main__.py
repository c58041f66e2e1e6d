"""The steps of the demo, in the order of the way of a bundle."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo_fleet.devices import DEVICES, Device
from demo_fleet.fleet import (
    MODEL,
    SAMPLE,
    SLOT,
    VERSION,
    agent_toml,
    enrol,
    free_port,
    start,
    status,
    wait_for,
)
from demo_fleet.inference import Evaluation
from demo_fleet.processes import Commands, DemoError, commands
from demo_fleet.table import DeviceRow, print_rows


def main() -> int:
    """Run the demo; the exit code is 0 when every device serves the release."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="packhorse-demo-"))
    keep = options.keep
    try:
        with commands(folder) as run:
            rows = _demo(run, folder)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        keep = True
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        if keep:
            print(f"everything is kept in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print_rows(rows)
    if options.json:
        content = {"model": MODEL, "version": VERSION, "devices": [row.as_json() for row in rows]}
        options.json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return 0 if all(row.state == "committed" for row in rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Pack the sample model for three profiles, deliver it over MQTT to three agents on this "
        "machine, and show what they serve. The hardware is simulated, all else is real.",
        epilog="example: scripts/demo --json result.json",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    parser.add_argument("--keep", action="store_true", help="keep the folder with workspace, states and logs")
    return parser.parse_args()


def _demo(run: Commands, folder: Path) -> list[DeviceRow]:
    bundles = _step("Quantize and pack for three profiles", lambda: _pack(run))
    _step("Make a workspace: keys and repository", lambda: _init(run))
    _step("Sign and publish the bundles", lambda: _publish(run, bundles))
    _step("Enrol three devices, each with a key of its own", lambda: enrol(run, folder, DEVICES, agent_toml))
    _step("Start controller, broker and agents", lambda: start(run, DEVICES))
    _step("Roll out: the canary first, then all", lambda: _roll_out(run))
    evaluation = Evaluation(SAMPLE / "evaluation.npz")
    rows = []
    for device in DEVICES:
        text = f"Classify {len(evaluation.labels)} images on {device.id}"
        rows.append(_step(text, lambda one=device: _measure(run, folder, one, evaluation)))  # type: ignore[misc]
    return rows


def _step(text: str, work: Callable[[], Any]) -> Any:
    began_s = time.monotonic()
    print(f"▸ {text} …", end="", file=sys.stderr, flush=True)
    result = work()
    print(f" {time.monotonic() - began_s:.1f} s", file=sys.stderr, flush=True)
    return result


def _pack(run: Commands) -> list[str]:
    profiles = [part for device in DEVICES for part in ("--profile", device.profile)]
    packed = run.ask(
        "packhorse",
        *("pack", str(SAMPLE / "model.onnx"), "--name", MODEL, "--version", VERSION, *profiles),
        *("--calibration", str(SAMPLE / "calibration.npz")),
        *("--evaluation", str(SAMPLE / "evaluation.npz"), "--labels", str(SAMPLE / "labels.txt")),
        *("--max-drop", "1", "-o", "bundles"),
    )
    return [bundle["bundle"] for bundle in packed]


def _init(run: Commands) -> None:
    run.run("packhorse", "init", "fleet", "--fleet", "demo", "--unencrypted-keys", "--port", str(free_port()))


def _publish(run: Commands, bundles: list[str]) -> None:
    run.run("packhorse", "publish", "-w", "fleet", *bundles)


def _roll_out(run: Commands) -> None:
    run.run(
        *("packhorse", "rollout", "start", "-w", "fleet", "--model", MODEL, "--release", VERSION),
        *("--slot", SLOT, "--on-failure", "stop", "--wait"),
        *("--phase", "canary:tag=canary,soak=2s,deadline=30s"),
        *("--phase", "all:share=100%,soak=2s,deadline=30s"),
    )


def _measure(run: Commands, folder: Path, device: Device, evaluation: Evaluation) -> DeviceRow:
    slot = status(run, device)["slots"][0]
    accuracy = evaluation.accuracy_percent(slot["endpoint"], SLOT)
    figures: dict[str, Any] = {}

    def reported() -> bool:
        shown = run.ask("packhorse", "device", "show", "-w", "fleet", device.id)
        figures.update(shown["figures"][0] if shown["figures"] else {})
        return bool(figures.get("requests", 0) >= len(evaluation.labels))

    wait_for(run, f"the telemetry of {device.id}", reported)
    manifest = json.loads((folder / device.id / "state" / "blobs" / slot["manifest_sha256"]).read_bytes())
    evidence = manifest["evidence"]
    return DeviceRow(
        id=device.id,
        profile=manifest["profile"],
        simulated=figures["simulated"],
        release=f"{manifest['model']} {manifest['version']}",
        recipe=manifest["recipe"]["name"],
        state=slot["deployment"]["state"],
        accuracy_fp32=evidence["quality"]["fp32"],
        accuracy=accuracy,
        size_fp32_bytes=evidence["size_fp32_bytes"],
        size_bytes=evidence["size_bytes"],
        latency_p50_us=figures["latency_p50_us"],
        latency_p95_us=figures["latency_p95_us"],
        latency_p99_us=figures["latency_p99_us"],
        requests=figures["requests"],
        energy_per_inference_uj=figures["energy_per_inference_uj"],
        energy_reason=figures["energy_reason"],
    )


if __name__ == "__main__":
    sys.exit(main())
