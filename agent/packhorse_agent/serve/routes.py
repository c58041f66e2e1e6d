"""Paths of the Open Inference Protocol v2."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

from packhorse_agent import __version__
from packhorse_agent.serve.messages import Request, Response, error_response, json_response
from packhorse_agent.serve.openinference import JsonObject

_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer))?")
_SERVER: dict[str, JsonObject] = {
    "/v2": {"name": "packhorse", "version": __version__, "extensions": []},
    "/v2/health/live": {"live": True},
    "/v2/health/ready": {"ready": True},
}


@dataclass(frozen=True)
class ServedModel:
    """What the paths lead to."""

    slot: str
    version: str
    metadata: JsonObject


@dataclass(frozen=True)
class InferCall:
    """A request that the runtime has to answer."""

    body: bytes


def route(request: Request, model: ServedModel) -> Response | InferCall:
    """Answer a request, or find that it needs the runtime. Pure."""
    if request.path in _SERVER:
        return _read_only(request, _SERVER[request.path])
    match = _MODEL.fullmatch(request.path)
    if match is None:
        return error_response(HTTPStatus.NOT_FOUND, f"no such path: {request.path}")
    name, version, verb = match.groups()
    if name != model.slot:
        return error_response(HTTPStatus.NOT_FOUND, f"no model {name} here; this slot serves {model.slot}")
    if version not in (None, model.version):
        return error_response(
            HTTPStatus.NOT_FOUND, f"no version {version} of {name}; it is at {model.version}"
        )
    if verb == "infer":
        return _infer(request)
    return _read_only(request, {"name": name, "ready": True} if verb else model.metadata)


def _read_only(request: Request, content: JsonObject) -> Response:
    if request.method not in ("GET", "HEAD"):
        return _wrong_method("GET, HEAD")
    return json_response(content)


def _infer(request: Request) -> Response | InferCall:
    if request.method != "POST":
        return _wrong_method("POST")
    if "inference-header-content-length" in request.headers:
        return error_response(HTTPStatus.BAD_REQUEST, "binary tensor data is not served: send JSON tensors")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        text = f"content encoding {encoding} is not served: send plain JSON"
        return error_response(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text)
    return InferCall(request.body)


def _wrong_method(allowed: str) -> Response:
    return error_response(HTTPStatus.METHOD_NOT_ALLOWED, f"allowed here: {allowed}", {"Allow": allowed})
