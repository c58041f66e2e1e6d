"""Paths, methods and who may ask."""

from __future__ import annotations

import json
from http import HTTPStatus

import pytest

from packhorse_agent.serve.access import refuse_over_tcp
from packhorse_agent.serve.messages import Request, Response, render
from packhorse_agent.serve.routes import InferCall, ServedModel, route

MODEL = ServedModel("wake-word", "1.2", {"name": "wake-word"})


def request(method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Request:
    return Request(method, path, headers or {}, body)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/wake-word", {"name": "wake-word"}),
        ("/v2/models/wake-word/versions/1.2", {"name": "wake-word"}),
        ("/v2/models/wake-word/ready", {"name": "wake-word", "ready": True}),
        ("/v2/models/wake-word/versions/1.2/ready", {"name": "wake-word", "ready": True}),
    ],
)
def test_what_can_be_read(path: str, content: object) -> None:
    found = route(request("GET", path), MODEL)
    assert isinstance(found, Response)
    assert (found.status, json.loads(found.body)) == (HTTPStatus.OK, content)
    refused = route(request("POST", path), MODEL)
    assert isinstance(refused, Response)
    assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/v2/models/wake-word/infer", "/v2/models/wake-word/versions/1.2/infer"])
def test_inference_goes_to_the_runtime(path: str) -> None:
    assert route(request("POST", path, body=b"{}"), MODEL) == InferCall(b"{}")
    refused = route(request("GET", path), MODEL)
    assert isinstance(refused, Response)
    assert (refused.status, refused.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/", "no such path"),
        ("/v2/", "no such path"),
        ("/v2/models", "no such path"),
        ("/v2/models/wake-word/explain", "no such path"),
        ("/v2/models/other", "this slot serves wake-word"),
        ("/v2/models/wake-word/versions/1.3", "it is at 1.2"),
    ],
)
def test_what_is_not_here(path: str, words: str) -> None:
    found = route(request("GET", path), MODEL)
    assert isinstance(found, Response)
    assert found.status == 404
    assert words in json.loads(found.body)["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"inference-header-content-length": "10"}, 400), ({"content-encoding": "gzip"}, 415)],
)
def test_bodies_in_other_forms_are_refused(headers: dict[str, str], status: int) -> None:
    found = route(request("POST", "/v2/models/wake-word/infer", headers), MODEL)
    assert isinstance(found, Response)
    assert found.status == status


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8080", "[::1]:80", "[::1]"]
)
def test_names_of_this_machine_may_ask(host: str) -> None:
    headers = {"host": host, "origin": f"http://{host}"}
    assert refuse_over_tcp(request("GET", "/v2", headers), "") is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"host": ""}, 421),
        ({"host": "evil.example"}, 421),
        ({"host": "localhost.evil.example"}, 421),
        ({"host": "10.0.0.1"}, 421),
        ({"host": "localhost, evil.example"}, 421),
        ({"host": "evil.example@127.0.0.1"}, 421),
        ({"host": "localhost", "origin": "https://evil.example"}, 403),
        ({"host": "localhost", "origin": "null"}, 403),
        ({"host": "localhost", "origin": "http://localhost.evil.example"}, 403),
    ],
)
def test_a_rebound_name_or_a_page_from_elsewhere_may_not(headers: dict[str, str], status: int) -> None:
    refusal = refuse_over_tcp(request("GET", "/v2", headers), "")
    assert refusal is not None
    assert refusal.status == status


@pytest.mark.parametrize(
    ("given", "passes"),
    [
        ("Bearer geheim", True),
        ("bearer  geheim", True),
        ("Bearer anders", False),
        ("Bearer ", False),
        ("Basic geheim", False),
        ("Bearer ä", False),
        (None, False),
    ],
)
def test_a_token_is_asked_for(given: str | None, passes: bool) -> None:
    headers = {"host": "localhost"} | ({"authorization": given} if given is not None else {})
    refusal = refuse_over_tcp(request("GET", "/v2", headers), "geheim")
    assert (refusal is None) == passes
    if refusal:
        assert (refusal.status, refusal.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_an_answer_to_head_has_no_body() -> None:
    response = Response(HTTPStatus.OK, b"{}")
    assert render(response, request("HEAD", "/v2"), close=False).endswith(b"Content-Length: 2\r\n\r\n")
    assert render(response, None, close=True).endswith(b"Connection: close\r\n\r\n{}")
