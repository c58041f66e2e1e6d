"""Requests out of bytes: HTTP/1.1 by llhttp, with bounds on all that comes in. No I/O."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import unquote

import httptools

from packhorse_agent.serve.limits import ServeLimits
from packhorse_agent.serve.messages import Request, Response, error_response


class BodyBudget:
    """Counts the bytes of all bodies that are held at once."""

    def __init__(self, max_bytes: int) -> None:
        self._free_bytes = max_bytes

    def take(self, size_bytes: int) -> bool:
        """Reserve; False when there is not so much left."""
        if size_bytes > self._free_bytes:
            return False
        self._free_bytes -= size_bytes
        return True

    def give(self, size_bytes: int) -> None:
        """Give back what was taken."""
        self._free_bytes += size_bytes


class RequestReader:
    """Cuts one connection's stream into requests.

    After a refusal nothing more is read: the stream is out of step. Law: within the bounds, how the bytes
    are split into calls of `feed` changes nothing.
    """

    def __init__(self, limits: ServeLimits, budget: BodyBudget) -> None:
        self._limits = limits
        self._budget = budget
        self._parser = httptools.HttpRequestParser(self)
        self._done: list[Request] = []
        self._number = 0
        self._target = b""
        self._fed_bytes = 0
        self.refusal: Response | None = None
        """Why the stream cannot be read on; to be answered after the requests before it."""
        self.begun = False
        """The first bytes of a request are here, its last is not."""
        self.continue_wanted = False
        """The client waits for `100 Continue` before it sends the body; reset by who answers it."""
        self._start()

    def feed(self, data: bytes) -> list[Request]:
        """The requests that are complete now; their bodies stay in the budget until given back."""
        number = self._number
        self._parse(data)
        if self.begun and not self._in_body and self._number == number:
            # llhttp hands a header over when it is whole: what has come of it so far is counted here
            self._fed_bytes += len(data)
            if self._fed_bytes > self._limits.header_max_bytes:
                self._refuse_headers()
        done, self._done = self._done, []
        return done

    def discard(self) -> None:
        """Give back what a request in the making holds."""
        self._budget.give(self._held_bytes)
        self._start()

    def on_message_begin(self) -> None:
        """llhttp: the first byte of a request."""
        self._start()
        self.begun = True
        self._number += 1
        self._fed_bytes = 0

    def on_url(self, url: bytes) -> None:
        """llhttp: a part of the request target."""
        self._url += url
        self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp: a header, or a trailer after the body, which is ignored."""
        if self._in_body:
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text
        self._count_header(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """llhttp: the body comes next."""
        self._in_body = True
        if self._parser.get_http_version() not in ("1.0", "1.1"):
            self._refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "this endpoint speaks HTTP/1.1 and 1.0")
        if self._parser.get_method() == b"CONNECT":
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "this endpoint is no proxy")
        length = self._headers.get("content-length", "0")
        if int(length) > self._limits.body_max_bytes:
            self._refuse_body()
        self.continue_wanted = self._headers.get("expect", "").lower() == "100-continue"

    def on_body(self, part: bytes) -> None:
        """llhttp: a part of the body."""
        if self.refusal is not None:
            return
        if self._held_bytes + len(part) > self._limits.body_max_bytes:
            self._refuse_body()
        elif not self._budget.take(len(part)):
            text = "too many requests are being received"
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, text, {"Retry-After": "1"})
        else:
            self._held_bytes += len(part)
            self._parts.append(part)

    def on_message_complete(self) -> None:
        """llhttp: the last byte of a request."""
        if self.refusal is not None:
            return
        self._target = self._url
        request = Request(
            method=self._parser.get_method().decode("latin-1"),
            path=self._path(),
            headers=self._headers,
            body=b"".join(self._parts),
            http_1_0=self._parser.get_http_version() == "1.0",
            keep_alive=self._parser.should_keep_alive(),
        )
        self._start()
        if self.refusal is None:
            self._done.append(request)

    def _parse(self, data: bytes) -> None:
        while data and self.refusal is None:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self.refusal is None:
                    data = self._decline_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._refuse(HTTPStatus.BAD_REQUEST, f"not HTTP/1.1: {error}")

    def _decline_upgrade(self) -> bytes:
        """Read the request anew without its offer to change the protocol (RFC 9110, 7.8; Java's client makes
        one): llhttp takes what follows such a head for the other protocol, and would lose the body.
        """
        request = self._done.pop()
        kept = {name: value for name, value in request.headers.items() if name != "upgrade"}
        tokens = kept.pop("connection", "").split(",")
        kept["connection"] = ",".join(token for token in tokens if token.strip().lower() != "upgrade")
        lines = [f"{request.method} {self._target.decode('latin-1')} HTTP/1.{0 if request.http_1_0 else 1}"]
        lines += [f"{name}: {value}" for name, value in kept.items()]
        self._parser = httptools.HttpRequestParser(self)
        return "\r\n".join((*lines, "", "")).encode("latin-1")

    def _start(self) -> None:
        self.begun = self._in_body = False
        self.continue_wanted = False
        self._url = b""
        self._headers: dict[str, str] = {}
        self._header_bytes = self._held_bytes = 0
        self._parts: list[bytes] = []

    def _path(self) -> str:
        try:
            path = httptools.parse_url(self._url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            self._refuse(HTTPStatus.BAD_REQUEST, "the request target is not a path")
            return ""
        return unquote(path.decode("latin-1"))

    def _count_header(self, size_bytes: int) -> None:
        self._header_bytes += size_bytes
        if self._header_bytes > self._limits.header_max_bytes:
            self._refuse_headers()

    def _refuse_headers(self) -> None:
        text = f"request line and headers are over {self._limits.header_max_bytes} bytes"
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text)

    def _refuse_body(self) -> None:
        text = f"the body is over {self._limits.body_max_bytes} bytes"
        self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)

    def _refuse(self, status: HTTPStatus, text: str, headers: dict[str, str] | None = None) -> None:
        if self.refusal is None:
            self.refusal = error_response(status, text, headers)
            self.discard()
