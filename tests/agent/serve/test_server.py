"""The HTTP server over real sockets, in this process, with small bounds."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from packhorse_agent.contract.messages import sketch_from_text
from packhorse_agent.deploy.listeners import SlotListeners
from packhorse_agent.runtime.base import Session
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_agent.runtime.errors import InferenceFailedError
from packhorse_agent.serve.limits import ServeLimits
from packhorse_agent.serve.model import LoadedModel, load_model
from packhorse_agent.serve.protocol import Load, WorkerStats
from packhorse_agent.serve.server import InferenceServer
from packhorse_agent.serve.stats import InferenceStats
from packhorse_agent.serve.thread import RuntimeThread
from tests.agent.models import write_bundle
from tests.agent.workers import DEADLINE_S, UnixConnection, ask, inference, listening, tcp_connection
from tests.helpers import wait_until

T = TypeVar("T")
INFER = "/v2/models/classifier/infer"
ROW = inference([[1.0, 2.0, 3.0, 4.0]])
GET = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIVE = b'{"live":true}'


class SwitchedSession:
    """A real session that can be held at its door, or made to fail."""

    def __init__(self, inner: Session) -> None:
        self._inner = inner
        self.inputs, self.outputs = inner.inputs, inner.outputs
        self.provider, self.notes = inner.provider, inner.notes
        self.open = threading.Event()
        self.open.set()
        self.failure: Exception | None = None

    def run(self, inputs: Tensors) -> dict[str, Array]:
        assert self.open.wait(DEADLINE_S)
        if self.failure:
            raise self.failure
        return self._inner.run(inputs)


@dataclass
class Running:
    """A server on a loop in a thread of its own."""

    loop: asyncio.AbstractEventLoop
    server: InferenceServer
    stats: InferenceStats
    session: SwitchedSession
    listeners: SlotListeners

    def call(self, function: Callable[[], T]) -> T:
        async def run() -> T:
            return function()

        return self.begin(run()).result(DEADLINE_S)

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def taken(self) -> WorkerStats:
        return self.call(self.stats.take)

    def raw(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(DEADLINE_S)
        client.connect(self.listeners.sockets[0].getsockname())
        return client

    def unix(self) -> UnixConnection:
        return UnixConnection(Path(self.listeners.sockets[0].getsockname()))


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    with listening(tmp_path) as listeners:
        running: list[Running] = []

        def begin(token: str = "", limits: ServeLimits | None = None) -> Running:
            session, model = _model(tmp_path)
            stats = InferenceStats()

            async def serve() -> InferenceServer:
                server = InferenceServer(model, RuntimeThread(loop), stats, token, limits)
                server.start([sock.dup() for sock in listeners.sockets])
                return server

            server = asyncio.run_coroutine_threadsafe(serve(), loop).result(DEADLINE_S)
            running.append(Running(loop, server, stats, session, listeners))
            return running[-1]

        yield begin
        for one in running:
            one.session.open.set()
            one.begin(one.server.drain(0.0)).result(DEADLINE_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(DEADLINE_S)
    loop.close()


def _model(folder: Path) -> tuple[SwitchedSession, LoadedModel]:
    bundle = write_bundle(folder / "bundle")
    command = Load(
        slot="classifier",
        version="1.0.0",
        manifest_path=bundle.manifest_path,
        artifacts=dict(bundle.artifacts),
    )
    model = load_model(command)
    session = SwitchedSession(model.session)
    return session, replace(model, session=session)


def read_all(client: socket.socket) -> bytes:
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def read_until(client: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        part = client.recv(65536)
        assert part, f"closed after {data!r}"
        data += part
    return data


def test_requests_over_tcp_and_unix_keep_their_connection(start: Start) -> None:
    running = start()
    for connection in (tcp_connection(running.listeners), running.unix()):
        first = ask(connection, "GET", "/v2/health/ready")
        sock = connection.sock
        second = ask(connection, "POST", INFER, ROW)
        assert (first.status, second.status) == (200, 200)
        assert second.content["outputs"][0]["shape"] == [1, 3]
        assert second.content["id"] == "7"
        assert connection.sock is sock
        connection.close()


def test_inferences_and_errors_are_counted_and_timed(start: Start) -> None:
    running = start()
    connection = running.unix()
    ask(connection, "GET", "/v2")
    for body in (ROW, ROW, b"{}"):
        ask(connection, "POST", INFER, body)
    stats = running.taken()
    assert (stats.requests, stats.errors, stats.rejected_requests) == (3, 0, 1)
    assert sketch_from_text(stats.latency_us).count == 2
    assert stats.rss_bytes > 1_000_000
    assert running.taken().requests == 0
    connection.close()


@pytest.mark.parametrize(
    ("failure", "status"),
    [(InferenceFailedError("the runtime failed: no"), 500), (ZeroDivisionError("secret"), 500)],
)
def test_a_failing_runtime_is_answered_and_the_next_request_too(
    start: Start, failure: Exception, status: int
) -> None:
    running = start()
    connection = running.unix()
    running.session.failure = failure
    answer = ask(connection, "POST", INFER, ROW)
    assert answer.status == status
    assert "secret" not in answer.content["error"]
    running.session.failure = None
    assert ask(connection, "POST", INFER, ROW).status == 200
    stats = running.taken()
    assert (stats.requests, stats.errors, stats.rejected_requests) == (2, 1, 0)
    connection.close()


def test_the_token_and_the_host_are_asked_for_over_tcp_only(start: Start) -> None:
    running = start(token="geheim")
    tcp, unix = tcp_connection(running.listeners), running.unix()
    assert ask(tcp, "GET", "/v2").status == 401
    assert ask(tcp, "GET", "/v2", headers={"Authorization": "Bearer geheim"}).status == 200
    assert ask(tcp, "GET", "/v2", headers={"Host": "evil.example"}).status == 421
    assert ask(unix, "GET", "/v2", headers={"Host": "evil.example"}).status == 200
    tcp.close()
    unix.close()


def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    running = start()
    body = json.dumps(ROW).encode()
    infer = f"POST {INFER} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    last = GET.replace(b"live", b"ready").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with running.raw() as client:
        client.sendall(infer + GET * 300 + infer + last)
        data = read_all(client)
    assert data.count(b"HTTP/1.1 200 OK") == 303
    assert data.index(b"model_name") < data.index(LIVE) < data.rindex(b"model_name")
    assert data.endswith(b'{"ready":true}')


def test_a_client_that_ends_its_half_still_gets_all_answers(start: Start) -> None:
    running = start()
    running.session.open.clear()
    body = json.dumps(ROW).encode()
    with running.raw() as client:
        client.sendall(f"POST {INFER} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body + GET)
        client.shutdown(socket.SHUT_WR)
        wait_until(lambda: running.server._thread.depth == 1)
        running.session.open.set()
        data = read_all(client)
    assert data.count(b"HTTP/1.1 200 OK") == 2


def test_a_malformed_request_gets_an_answer_and_the_end(start: Start) -> None:
    running = start()
    with running.raw() as client:
        client.sendall(GET + b"nonsense\r\n\r\n" + GET)
        data = read_all(client)
    assert data.count(b"HTTP/1.1 200 OK") == 1
    assert b"HTTP/1.1 400 Bad Request" in data
    assert b"Connection: close" in data
    assert json.loads(data.rpartition(b"\r\n\r\n")[2])["error"]


def test_a_body_over_the_bound_is_refused_before_it_is_sent(start: Start) -> None:
    running = start(limits=ServeLimits(body_max_bytes=1000))
    with running.raw() as client:
        client.sendall(f"POST {INFER} HTTP/1.1\r\nContent-Length: 1001\r\n\r\n".encode())
        assert b"HTTP/1.1 413" in read_all(client)


def test_continue_is_said_only_to_who_may_go_on(start: Start) -> None:
    running = start(limits=ServeLimits(body_max_bytes=1000))
    body = json.dumps(ROW).encode()
    head = f"POST {INFER} HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: "
    with running.raw() as client:
        client.sendall(f"{head}{len(body)}\r\n\r\n".encode())
        assert read_until(client, b"100 Continue\r\n\r\n")
        client.sendall(body)
        assert b"200 OK" in client.recv(65536)
    with running.raw() as client:
        client.sendall(f"{head}1001\r\n\r\n".encode())
        assert read_all(client).startswith(b"HTTP/1.1 413")


def test_a_full_queue_answers_503_and_says_when_to_come_again(start: Start) -> None:
    running = start(limits=ServeLimits(queue_max_requests=2))
    running.session.open.clear()
    connections = [running.unix() for _ in range(3)]
    for count, connection in enumerate(connections[:2], 1):
        connection.request("POST", INFER, json.dumps(ROW))
        wait_until(lambda count=count: running.server._thread.depth == count)  # type: ignore[misc]
    refused = ask(connections[2], "POST", INFER, ROW)
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert ask(connections[2], "GET", "/v2/health/live").status == 200
    running.session.open.set()
    assert [connection.getresponse().status for connection in connections[:2]] == [200, 200]
    for connection in connections:
        connection.close()


def test_bodies_in_flight_are_bounded_together(start: Start) -> None:
    running = start(limits=ServeLimits(buffered_max_bytes=1000))
    with running.raw() as holder, running.raw() as client:
        holder.sendall(f"POST {INFER} HTTP/1.1\r\nContent-Length: 950\r\n\r\n".encode() + b" " * 900)
        wait_until(lambda: running.server.budget._free_bytes == 100)
        client.sendall(f"POST {INFER} HTTP/1.1\r\nContent-Length: 950\r\n\r\n".encode() + b" " * 900)
        assert b"HTTP/1.1 503" in read_all(client)
    wait_until(lambda: running.server.budget._free_bytes == 1000)


def test_connections_over_the_bound_wait_and_are_served_later(start: Start) -> None:
    running = start(limits=ServeLimits(connections_max=2))
    first, second, third = running.raw(), running.raw(), running.raw()
    for client in (first, second):
        client.sendall(GET)
        read_until(client, LIVE)
    third.sendall(GET)
    wait_until(lambda: len(running.server._connections) == 2)
    first.close()
    read_until(third, LIVE)
    second.close()
    third.close()


def test_a_request_that_does_not_arrive_is_given_up(start: Start) -> None:
    running = start(limits=ServeLimits(request_timeout_s=0.05, sweep_interval_s=0.02))
    with running.raw() as client:
        client.sendall(GET[:-2])
        assert read_all(client).startswith(b"HTTP/1.1 408")


def test_an_idle_connection_is_closed_in_the_end(start: Start) -> None:
    running = start(limits=ServeLimits(idle_timeout_s=0.05, sweep_interval_s=0.02))
    with running.raw() as client:
        client.sendall(GET)
        read_until(client, LIVE)
        assert client.recv(1) == b""


def test_a_client_that_takes_no_answer_is_dropped(start: Start) -> None:
    running = start(limits=ServeLimits(request_timeout_s=0.1, sweep_interval_s=0.02))
    with running.raw() as client:
        client.setblocking(False)
        wait_until(lambda: _flood(client))
        wait_until(lambda: not running.server._connections)


def _flood(client: socket.socket) -> bool:
    try:
        client.sendall(GET * 1000)
    except BlockingIOError:
        return False
    except (BrokenPipeError, ConnectionResetError):
        return True
    return False


def test_draining_answers_what_is_asked_and_says_close(start: Start) -> None:
    running = start()
    running.session.open.clear()
    busy, idle = running.unix(), running.unix()
    assert ask(idle, "GET", "/v2/health/live").status == 200
    busy.request("POST", INFER, json.dumps(ROW))
    wait_until(lambda: running.server._thread.depth == 1)
    drained = running.begin(running.server.drain(DEADLINE_S))
    wait_until(lambda: running.server.draining)
    late = ask(idle, "GET", "/v2/health/ready")
    assert (late.status, late.headers["Connection"]) == (200, "close")
    running.session.open.set()
    response = busy.getresponse()
    assert (response.status, response.headers["Connection"]) == (200, "close")
    response.read()
    drained.result(DEADLINE_S)
    busy.close()
    idle.close()


def test_draining_ends_idle_connections_after_the_grace_only(start: Start) -> None:
    running = start()
    with running.raw() as client:
        client.sendall(GET)
        read_until(client, LIVE)
        drained = running.begin(running.server.drain(0.1))
        assert client.recv(1) == b""
        client.close()
        drained.result(DEADLINE_S)


def test_a_connection_accepted_just_before_draining_is_served(start: Start) -> None:
    """An asyncio server loses a connection that it accepted in the turn of the loop in which it is closed."""
    running = start()

    def accept_then_drain() -> Future[None]:
        listener = running.server._listeners[0]
        running.server._accept(listener)
        assert len(running.server._connections) == 1
        return asyncio.run_coroutine_threadsafe(running.server.drain(DEADLINE_S), running.loop)

    running.call(running.server._stop_listening)
    with running.raw() as client:
        drained = running.call(accept_then_drain)
        client.sendall(GET)
        data = read_until(client, LIVE)
        assert b"Connection: close" in data
    drained.result(DEADLINE_S)
