"""The HTTP server on listeners that somebody else holds, and its end without a lost request."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final

from packhorse_agent.serve.access import refuse_over_tcp
from packhorse_agent.serve.connection import Connection
from packhorse_agent.serve.limits import ServeLimits
from packhorse_agent.serve.messages import Request, Response, error_response
from packhorse_agent.serve.model import Inference, LoadedModel
from packhorse_agent.serve.reader import BodyBudget
from packhorse_agent.serve.routes import InferCall, ServedModel, route
from packhorse_agent.serve.stats import InferenceStats
from packhorse_agent.serve.thread import RuntimeThread

_log = logging.getLogger(__name__)

_ACCEPTS_AT_ONCE: Final = 16
_RETRY_ACCEPT_S: Final = 0.5


class InferenceServer:
    """Accepts connections and has their requests answered by one model.

    The listeners are shared with other processes: they are used and closed here, never shut down.
    """

    def __init__(
        self,
        model: LoadedModel,
        thread: RuntimeThread,
        stats: InferenceStats,
        token: str = "",
        limits: ServeLimits | None = None,
    ) -> None:
        self.limits = limits or ServeLimits()
        self.budget = BodyBudget(self.limits.buffered_max_bytes)
        self.draining = False
        self._model = model
        self._served = ServedModel(model.slot, model.version, model.describe())
        self._thread = thread
        self._stats = stats
        self._token = token
        self._loop = asyncio.get_running_loop()
        self._listeners: Sequence[socket.socket] = ()
        self._connections: set[Connection] = set()
        self._adoptions: set[asyncio.Task[None]] = set()
        self._grace_over = False
        self._emptied = asyncio.Event()
        self._sweeper: asyncio.TimerHandle | None = None

    def start(self, listeners: Sequence[socket.socket]) -> None:
        """Accept connections on listening stream sockets, Unix or TCP."""
        self._listeners = listeners
        for listener in listeners:
            listener.setblocking(False)
        self._listen()

    async def drain(self, grace_s: float) -> None:
        """Accept no more, and return when the last connection is closed.

        Answers say `Connection: close`; a connection on which nothing is asked is kept for `grace_s`, since
        its client may be about to ask.
        """
        self.draining = True
        self._stop_listening()
        for listener in self._listeners:
            listener.close()
        self._listeners = ()
        grace = self._loop.call_later(grace_s, self._end_grace)
        self._settle()
        await self._emptied.wait()
        grace.cancel()

    def answer(self, request: Request, over_tcp: bool, reply: Callable[[Response], None]) -> None:
        """See `Hub.answer`."""
        refusal = refuse_over_tcp(request, self._token) if over_tcp else None
        found = refusal or route(request, self._served)
        if isinstance(found, InferCall):
            self._infer(found.body, reply)
        else:
            reply(found)

    def forget(self, connection: Connection) -> None:
        """See `Hub.forget`."""
        was_full = self._full()
        self._connections.discard(connection)
        if was_full and not self.draining:
            self._listen()
        self._settle()

    def _infer(self, body: bytes, reply: Callable[[Response], None]) -> None:
        if self._thread.depth >= self.limits.queue_max_requests:
            text = f"{self._thread.depth} requests are waiting already"
            busy = error_response(HTTPStatus.SERVICE_UNAVAILABLE, text, {"Retry-After": "1"})
            self._finish(Inference(busy, None), reply)
        else:
            self._thread.submit(lambda: self._model.infer(body), lambda done: self._finish(done, reply))

    def _finish(self, inference: Inference, reply: Callable[[Response], None]) -> None:
        self._stats.count(inference.response.status, inference.runtime_us)
        reply(inference.response)

    def _full(self) -> bool:
        return len(self._connections) >= self.limits.connections_max

    def _listen(self) -> None:
        for listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            self._loop.remove_reader(listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            if self._full():
                self._stop_listening()
                return
            try:
                client, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("cannot accept a connection: %s", error)
                self._stop_listening()
                self._loop.call_later(_RETRY_ACCEPT_S, self._listen)
                return
            connection = Connection(self, over_tcp=listener.family != socket.AF_UNIX)
            self._connections.add(connection)
            task = self._loop.create_task(self._adopt(client, connection))
            self._adoptions.add(task)
            task.add_done_callback(self._adoptions.discard)

    async def _adopt(self, client: socket.socket, connection: Connection) -> None:
        """Not by an asyncio server: closed, it drops what it has accepted and not yet adopted."""
        client.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(lambda: connection, client)
        except OSError:
            client.close()
            self.forget(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self.limits.sweep_interval_s, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        for connection in tuple(self._connections):
            connection.sweep(end_idle=self._grace_over)
        if self._connections:
            self._sweeper = self._loop.call_later(self.limits.sweep_interval_s, self._sweep)

    def _end_grace(self) -> None:
        self._grace_over = True
        if self._sweeper:
            self._sweeper.cancel()
        self._sweep()

    def _settle(self) -> None:
        if self.draining and not self._connections:
            self._emptied.set()
