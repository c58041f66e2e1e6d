"""What HTTP costs: inferences through a real worker's sockets, beside the same model in this process.

One client that waits for each answer. The ways take turns, inference by inference, in an order that changes,
so that what slows the machine slows all of them. The bodies are made beforehand and the answers not parsed:
the figures are the server's, and hold the time of one process to wake the other.
"""

from __future__ import annotations

import argparse
import json
import queue
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.report import options, publish
from packhorse_agent.contract.manifest import MANIFEST_FILE, ArtifactRole, Manifest
from packhorse_agent.contract.messages import sketch_from_text
from packhorse_agent.deploy.listeners import SlotListeners
from packhorse_agent.deploy.worker_process import (
    Loaded,
    Probed,
    Serving,
    Stats,
    WorkerEvent,
    WorkerProcess,
    WorkerSpec,
)
from packhorse_agent.runtime.base import open_model
from packhorse_agent.serve.openinference import decode_request, encode_response

SAMPLE = Path(__file__).parents[2] / "samples" / "fashion-mnist"
SLOT = "bench"
_TIMEOUT_S = 60.0
_WARM_UP = 50

E = TypeVar("E")


def main() -> None:
    """Measure, print, write."""
    parsed = _options()
    with tempfile.TemporaryDirectory(prefix="packhorse-bench-") as name, ExitStack() as stack:
        folder = parsed.bundle or _pack(Path(name), parsed.recipe)
        manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
        body = _body(manifest)
        worker = _Worker(Path(name), folder, manifest)
        stack.callback(worker.close)
        ways = {
            "in process": _in_process(folder, manifest, body),
            "JSON alone": _json(folder, manifest, body),
        }
        for kind, listener in zip(("HTTP, Unix socket", "HTTP, TCP"), worker.listeners.sockets, strict=True):
            client = stack.enter_context(socket.socket(listener.family))
            client.connect(listener.getsockname())
            ways[kind] = _asker(client, body)
        times_us = _take_turns(ways, parsed.inferences)
        runtime_p50_us = worker.runtime_p50_us()
    _publish(manifest, times_us, runtime_p50_us, parsed.json)


def _options() -> argparse.Namespace:
    parser = options("HTTP inference on the sample model, beside the same model in this process.")
    parser.add_argument("--inferences", type=int, default=2000, help="of each way (default 2000)")
    parser.add_argument(
        "--recipe", default="static_wi8_ai8", help="recipe of the sample (default static_wi8_ai8)"
    )
    parser.add_argument("--bundle", type=Path, help="a bundle folder to take instead of the sample")
    return parser.parse_args()


def _pack(folder: Path, recipe: str) -> Path:
    command = [str(Path(sys.executable).parent / "packhorse"), "pack", str(SAMPLE / "model.onnx")]
    command += ["--name", "fashion", "--version", "1.0", "--profile", "generic-x86_64", "--recipe", recipe]
    command += ["--calibration", str(SAMPLE / "calibration.npz"), "-o", str(folder / "bundles"), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return Path(json.loads(done.stdout)[0]["bundle"])


def _body(manifest: Manifest) -> bytes:
    random = np.random.default_rng(0)
    inputs: list[dict[str, Any]] = []
    for spec in manifest.inputs:
        shape = [max(size, 1) for size in spec.shape]
        data = random.random(int(np.prod(shape)), dtype=np.float32).round(4).tolist()
        inputs.append({"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": data})
    return json.dumps({"inputs": inputs}).encode()


def _in_process(folder: Path, manifest: Manifest, body: bytes) -> Callable[[], object]:
    session = open_model(_model(folder, manifest), manifest.runtime, manifest.inputs, manifest.outputs)
    inputs = decode_request(body, manifest.inputs, manifest.outputs).inputs
    return lambda: session.run(inputs)


def _json(folder: Path, manifest: Manifest, body: bytes) -> Callable[[], object]:
    session = open_model(_model(folder, manifest), manifest.runtime, manifest.inputs, manifest.outputs)
    outputs = session.run(decode_request(body, manifest.inputs, manifest.outputs).inputs)

    def both_ways() -> object:
        request = decode_request(body, manifest.inputs, manifest.outputs)
        return encode_response(SLOT, manifest.version, request, outputs)

    return both_ways


def _model(folder: Path, manifest: Manifest) -> Path:
    artifact = manifest.artifact(ArtifactRole.MODEL)
    if artifact is None:
        raise SystemExit(f"error: {folder} has no model")
    return folder / artifact.file


def _asker(client: socket.socket, body: bytes) -> Callable[[], object]:
    head = f"POST /v2/models/{SLOT}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body

    def ask() -> bytes:
        client.sendall(request)
        answer = client.recv(65536)
        while not answer.endswith(b"]}]}"):
            answer += client.recv(65536)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"error: {answer[:500]!r}")
        return answer

    return ask


def _take_turns(ways: dict[str, Callable[[], object]], inferences: int) -> dict[str, list[float]]:
    times_us: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for at in range(inferences + _WARM_UP):
        names.append(names.pop(0))
        for name in names:
            begun_s = time.perf_counter()
            ways[name]()
            if at >= _WARM_UP:
                times_us[name].append((time.perf_counter() - begun_s) * 1e6)
    return times_us


class _Worker:
    """A worker as the supervisor runs it."""

    def __init__(self, scratch: Path, folder: Path, manifest: Manifest) -> None:
        self._events: queue.Queue[WorkerEvent] = queue.Queue()
        self.listeners = SlotListeners(SLOT, scratch / "s.sock", ("127.0.0.1", 0))
        spec = WorkerSpec(
            slot=SLOT,
            version=manifest.version,
            manifest_path=folder / MANIFEST_FILE,
            artifacts={artifact.role: folder / artifact.file for artifact in manifest.artifacts},
            python=Path(sys.executable),
            log_path=scratch / "worker.log",
            memory_limit_bytes=None,
            token="",
        )
        self._process = WorkerProcess.start(spec, self._events.put)
        self._process.load()
        self._expect(Loaded)
        self._process.probe()
        if not self._expect(Probed).result.passed:
            raise SystemExit("error: the bundle does not pass its probe here")
        self._process.serve(self.listeners.sockets)
        self._expect(Serving)

    def runtime_p50_us(self) -> float:
        """Median time inside the worker's runtime."""
        self._process.request_stats()
        return sketch_from_text(self._expect(Stats).stats.latency_us).quantile_us(0.5) or 0.0

    def close(self) -> None:
        """End the worker."""
        self._process.kill()
        self.listeners.close()

    def _expect(self, kind: type[E]) -> E:
        event = self._events.get(timeout=_TIMEOUT_S)
        if not isinstance(event, kind):
            raise SystemExit(f"error: expected {kind.__name__}, got {event}")
        return event


def _publish(
    manifest: Manifest, times_us: dict[str, list[float]], runtime_p50_us: float, path: Path | None
) -> None:
    quantiles = {
        name: {f"p{q}_us": round(float(np.percentile(values, q)), 1) for q in (50, 95, 99)}
        for name, values in times_us.items()
    }
    base_us = quantiles["in process"]["p50_us"]
    overheads_us = {
        name: round(quantiles[name]["p50_us"] - base_us, 1) for name in quantiles if "HTTP" in name
    }
    lines = [
        (
            name,
            f"p50 {figures['p50_us']:8.1f}   p95 {figures['p95_us']:8.1f}   p99 {figures['p99_us']:8.1f} µs",
        )
        for name, figures in quantiles.items()
    ]
    lines.append(("inside the worker's runtime", f"p50 {runtime_p50_us:8.1f} µs"))
    lines += [(f"{name}, less in process", f"p50 {value:8.1f} µs") for name, value in overheads_us.items()]
    figures = {
        "recipe": manifest.recipe.name,
        "inferences": len(times_us["in process"]),
        "latency": quantiles,
        "runtime_p50_us": round(runtime_p50_us, 1),
        "overhead_p50_us": overheads_us,
    }
    publish(figures, lines, path)


if __name__ == "__main__":
    main()
