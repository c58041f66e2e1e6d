"""One worker after the other on the same listeners, while clients ask."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from packhorse_agent.deploy.listeners import SlotListeners
from packhorse_agent.deploy.worker_process import Exited, WorkerProcess
from tests.agent.models import write_bundle
from tests.agent.workers import (
    DEADLINE_S,
    Stable,
    UnixConnection,
    inference,
    listening,
    stable,
    tcp_connection,
)
from tests.helpers import wait_until

INFER = "/v2/models/classifier/infer"
ROW = inference([[1.0, 2.0, 3.0, 4.0]])


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Stable]:
    with stable(tmp_path) as owner:
        yield owner


@pytest.fixture
def listeners(tmp_path: Path) -> Iterator[SlotListeners]:
    with listening(tmp_path) as opened:
        yield opened


@dataclass
class Client:
    """Asks without pause on one connection that it keeps as long as the server lets it."""

    listeners: SlotListeners
    over_tcp: bool
    stop: threading.Event
    answered: int = 0
    versions: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    reconnects: int = 0

    def run(self) -> None:
        connection = self._connect()
        body = json.dumps(ROW)
        while not self.stop.is_set():
            try:
                if connection.sock is None:
                    self.reconnects += 1
                connection.request("POST", INFER, body)
                response = connection.getresponse()
                self._check(response.status, json.loads(response.read()))
            except Exception as error:
                self.problems.append(repr(error))
                connection.close()
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        if self.over_tcp:
            return tcp_connection(self.listeners)
        return UnixConnection(Path(self.listeners.sockets[0].getsockname()))

    def _check(self, status: int, content: dict[str, Any]) -> None:
        if status != 200:
            self.problems.append(f"{status} {content}")
            return
        self.answered += 1
        self.versions.add(content["model_version"])


def swap(workers: Stable, listeners: SlotListeners, old: WorkerProcess, version: str) -> WorkerProcess:
    """As the supervisor does: the new one serves before the old one drains."""
    bundle = write_bundle(workers.folder / version, version=version)
    new = workers.serving(listeners.sockets, workers.spec(bundle))
    old.drain(5.0)
    workers.wait_for(Exited, old)
    return new


def test_swapping_loses_no_request(workers: Stable, listeners: SlotListeners) -> None:
    worker = workers.serving(listeners.sockets)
    stop = threading.Event()
    clients = [Client(listeners, over_tcp, stop) for over_tcp in (True, True, False)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    versions = [f"2.{number}" for number in range(3)]
    for version in versions:
        worker = swap(workers, listeners, worker, version)
        for client in clients:
            wait_until(lambda client=client, version=version: version in client.versions)  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    for client in clients:
        assert client.problems == []
        assert client.answered > len(versions)
        assert client.reconnects >= len(versions)
