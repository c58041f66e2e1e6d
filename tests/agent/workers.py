"""Real workers under test: started, heard, and always ended."""

from __future__ import annotations

import http.client
import json
import queue
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from packhorse_agent.deploy.listeners import SlotListeners
from packhorse_agent.deploy.worker_process import (
    Loaded,
    Probed,
    Serving,
    WorkerEvent,
    WorkerProcess,
    WorkerSpec,
)
from tests.agent.models import BundleOnDisk, write_bundle

E = TypeVar("E")
DEADLINE_S = 30.0


class Stable:
    """Starts workers, keeps what they post, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: queue.Queue[WorkerEvent] = queue.Queue()
        self.workers: list[WorkerProcess] = []

    def spec(self, bundle: BundleOnDisk | None = None, **changes: Any) -> WorkerSpec:
        bundle = bundle or write_bundle(self.folder / "bundle")
        spec = WorkerSpec(
            slot="classifier",
            version=bundle.manifest.version,
            manifest_path=bundle.manifest_path,
            artifacts=bundle.artifacts,
            python=Path(sys.executable),
            log_path=self.folder / "classifier.log",
            memory_limit_bytes=None,
            token="",
        )
        return replace(spec, **changes)

    def start(self, spec: WorkerSpec | None = None) -> WorkerProcess:
        worker = WorkerProcess.start(spec or self.spec(), self.events.put)
        self.workers.append(worker)
        return worker

    def loaded(self, spec: WorkerSpec | None = None) -> WorkerProcess:
        worker = self.start(spec)
        worker.load()
        self.expect(Loaded, worker)
        return worker

    def serving(self, listeners: Sequence[socket.socket], spec: WorkerSpec | None = None) -> WorkerProcess:
        worker = self.loaded(spec)
        worker.probe()
        assert self.expect(Probed, worker).result.passed
        worker.serve(listeners)
        self.expect(Serving, worker)
        return worker

    def next_event(self) -> WorkerEvent:
        return self.events.get(timeout=DEADLINE_S)

    def expect(self, kind: type[E], worker: WorkerProcess) -> E:
        """The worker's next event, which has to be of this kind; other workers' events are passed over."""
        while True:
            event = self.next_event()
            if event.worker is worker:
                assert isinstance(event, kind), f"expected {kind.__name__}, got {event}"
                return event

    def wait_for(self, kind: type[E], worker: WorkerProcess) -> E:
        """The worker's next event of this kind."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            event = self.next_event()
            if event.worker is worker and isinstance(event, kind):
                return event
        raise TimeoutError(f"no {kind.__name__}")

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker._process.wait(DEADLINE_S)


@contextmanager
def stable(folder: Path) -> Iterator[Stable]:
    owner = Stable(folder)
    try:
        yield owner
    finally:
        owner.close()


@contextmanager
def listening(folder: Path, tcp: bool = True) -> Iterator[SlotListeners]:
    listeners = SlotListeners("classifier", folder / "s.sock", ("127.0.0.1", 0) if tcp else None)
    try:
        yield listeners
    finally:
        listeners.close()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    content: Any


class UnixConnection(http.client.HTTPConnection):
    """The standard client on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(str(self._path))


def tcp_connection(listeners: SlotListeners) -> http.client.HTTPConnection:
    host, port = listeners.sockets[1].getsockname()
    return http.client.HTTPConnection(host, port, timeout=DEADLINE_S)


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    content: Any = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    body = content if isinstance(content, bytes | None) else json.dumps(content)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    data = response.read()
    return Answer(response.status, dict(response.getheaders()), json.loads(data) if data else None)


def inference(rows: Sequence[Sequence[float]]) -> dict[str, Any]:
    """A request for `linear_model`."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(rows), len(rows[0])], "data": rows}
    return {"id": "7", "inputs": [tensor]}
