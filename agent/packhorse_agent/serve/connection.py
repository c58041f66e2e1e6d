"""One client's connection: requests in order, one at a time, and an end that loses no answer."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Protocol, cast

from packhorse_agent.serve.limits import ServeLimits
from packhorse_agent.serve.messages import Request, Response, error_response, render
from packhorse_agent.serve.reader import BodyBudget, RequestReader

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Hub(Protocol):
    """What a connection needs of its server."""

    limits: ServeLimits
    budget: BodyBudget
    draining: bool

    def answer(self, request: Request, over_tcp: bool, reply: Callable[[Response], None]) -> None:
        """Have a request answered; `reply` is called once, on the loop, now or later."""

    def forget(self, connection: Connection) -> None:
        """The connection is closed."""


class Connection(asyncio.Protocol):
    """See the module. While a request is answered nothing more is read, so that a client cannot run ahead."""

    def __init__(self, hub: Hub, over_tcp: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._hub = hub
        self._over_tcp = over_tcp
        self._clock = clock
        self._reader = RequestReader(hub.limits, hub.budget)
        self._waiting: deque[Request] = deque()
        self._answering: Request | None = None
        self._transport: asyncio.Transport | None = None
        self._advancing = False
        self._reading_paused = False
        self._ending = False
        self._eof = False
        self._write_blocked = False
        self._since_s = clock()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: the connection stands."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio: the connection is gone; what was being read is given up."""
        self._ending = True
        self._give_up_unanswered()
        self._hub.forget(self)

    def data_received(self, data: bytes) -> None:
        """Asyncio: bytes came."""
        if self._ending:
            return
        was_begun = self._reader.begun
        self._waiting.extend(self._reader.feed(data))
        if self._reader.begun and not was_begun:
            self._since_s = self._clock()
        if self._reader.continue_wanted:
            self._reader.continue_wanted = False
            self._open_transport().write(_CONTINUE)
        self._advance()
        if self._waiting and not self._ending:
            self._reading_paused = True
            self._open_transport().pause_reading()

    def eof_received(self) -> bool:
        """Asyncio: the client sends no more; it may still wait for answers."""
        self._eof = True
        return not self._ending and (self._answering is not None or bool(self._waiting))

    def pause_writing(self) -> None:
        """Asyncio: the client does not take its answers."""
        self._write_blocked = True
        self._since_s = self._clock()

    def resume_writing(self) -> None:
        """Asyncio: the client took them."""
        self._write_blocked = False
        self._since_s = self._clock()
        self._advance()

    def sweep(self, *, end_idle: bool) -> None:
        """End the connection when it is over one of its time-outs, or idle where that is to end it."""
        if self._transport is None:
            return
        age_s = self._clock() - self._since_s
        limits = self._hub.limits
        if self._ending:
            if age_s > limits.linger_s:
                self._transport.abort()
        elif self._write_blocked:
            if age_s > limits.request_timeout_s:
                self._transport.abort()
        elif self._answering or self._waiting:
            return
        elif not self._reader.begun:
            if end_idle or age_s > limits.idle_timeout_s:
                self._end()
        elif age_s > limits.request_timeout_s:
            text = f"the request did not arrive within {limits.request_timeout_s:g} s"
            self._last_words(error_response(HTTPStatus.REQUEST_TIMEOUT, text))

    def _advance(self) -> None:
        """Answer what waits; a loop, since many small requests may be answered at once."""
        if self._advancing:
            return
        self._advancing = True
        while self._waiting and not (self._answering or self._ending or self._write_blocked):
            self._answering = self._waiting.popleft()
            self._hub.answer(self._answering, self._over_tcp, self._reply)
        self._advancing = False
        if self._answering or self._ending or self._write_blocked:
            return
        if self._reader.refusal is not None:
            self._last_words(self._reader.refusal)
        elif self._reading_paused:
            self._reading_paused = False
            self._open_transport().resume_reading()

    def _reply(self, response: Response) -> None:
        request, self._answering = self._answering, None
        if request is None:
            return
        self._hub.budget.give(len(request.body))
        transport = self._open_transport()
        if self._ending or transport.is_closing():
            return
        more = bool(self._waiting) or (self._reader.begun and not self._eof)
        more = more or self._reader.refusal is not None
        close = not request.keep_alive or (not more and (self._eof or self._hub.draining))
        self._since_s = self._clock()
        transport.write(render(response, request, close=close))
        if close:
            self._end()
        else:
            self._advance()

    def _last_words(self, response: Response) -> None:
        self._open_transport().write(render(response, None, close=True))
        self._end()

    def _end(self) -> None:
        """Close our half and read the client's to its end: a reset could overtake the last answer."""
        transport = self._open_transport()
        self._ending = True
        self._since_s = self._clock()
        self._give_up_unanswered()
        if self._eof or not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        if self._reading_paused:
            self._reading_paused = False
            transport.resume_reading()

    def _give_up_unanswered(self) -> None:
        self._reader.discard()
        for request in self._waiting:
            self._hub.budget.give(len(request.body))
        self._waiting.clear()

    def _open_transport(self) -> asyncio.Transport:
        assert self._transport is not None, "asyncio calls connection_made first"  # noqa: S101
        return self._transport
