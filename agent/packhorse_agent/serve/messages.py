"""HTTP requests and responses as values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from packhorse_agent.serve.openinference import JsonObject


@dataclass(frozen=True)
class Request:
    """One whole request."""

    method: str
    path: str
    """Decoded, without the query."""
    headers: Mapping[str, str]
    """By lower-case name; a repeated header holds its values joined by a comma."""
    body: bytes
    http_1_0: bool = False
    keep_alive: bool = True
    """The client may ask again on the same connection."""


@dataclass(frozen=True)
class Response:
    """One answer; the body is JSON."""

    status: HTTPStatus
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(content: JsonObject, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """An answer with `content` as JSON."""
    return Response(status, json.dumps(content, separators=(",", ":")).encode())


def error_response(status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error in the form of the Open Inference Protocol."""
    body = json.dumps({"error": text}, separators=(",", ":")).encode()
    return Response(status, body, headers or {})


def render(response: Response, request: Request | None, *, close: bool) -> bytes:
    """An answer's bytes; `request` is None where none could be read."""
    lines = [f"HTTP/1.1 {response.status.value} {response.status.phrase}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    lines += ["Content-Type: application/json", f"Content-Length: {len(response.body)}"]
    if close:
        lines.append("Connection: close")
    elif request is not None and request.http_1_0:
        lines.append("Connection: keep-alive")
    head = "\r\n".join((*lines, "", "")).encode("latin-1")
    return head if request is not None and request.method == "HEAD" else head + response.body
