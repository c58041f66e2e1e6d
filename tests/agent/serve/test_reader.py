"""Requests out of bytes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.serve.limits import ServeLimits
from packhorse_agent.serve.messages import Request
from packhorse_agent.serve.reader import BodyBudget, RequestReader

LIMITS = ServeLimits(body_max_bytes=100, buffered_max_bytes=250, header_max_bytes=300)
POST = b"POST /v2/x?y=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
GET = b"GET /v2 HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX-A: 2\r\n\r\n"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: t\r\n\r\n"
)
UPGRADE = b"POST /u HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok"
UPGRADE_EMPTY = b"GET /e HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
STREAM = POST + GET + CHUNKED + UPGRADE + UPGRADE_EMPTY + GET


def reader(limits: ServeLimits = LIMITS) -> RequestReader:
    return RequestReader(limits, BodyBudget(limits.buffered_max_bytes))


def refused(data: bytes, limits: ServeLimits = LIMITS) -> HTTPStatus | None:
    it = reader(limits)
    it.feed(data)
    return it.refusal.status if it.refusal else None


def test_requests_come_out_in_order() -> None:
    found = reader().feed(STREAM)
    assert [(request.method, request.path, request.body) for request in found] == [
        ("POST", "/v2/x", b"hello"),
        ("GET", "/v2", b""),
        ("POST", "/c", b"abcde"),
        ("POST", "/u", b"ok"),
        ("GET", "/e", b""),
        ("GET", "/v2", b""),
    ]
    assert found[1].headers == {"host": "a", "x-a": "1, 2"}
    assert "x-trailer" not in found[2].headers


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_how_the_bytes_are_split_changes_nothing(cuts: list[int]) -> None:
    it = reader()
    found: list[Request] = []
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in itertools.pairwise(edges):
        found += it.feed(STREAM[start:end])
    assert found == reader().feed(STREAM)
    assert it.refusal is None
    assert not it.begun


def test_keeping_alive_follows_version_and_header() -> None:
    old = b"GET / HTTP/1.0\r\n\r\n"
    assert not reader().feed(old)[0].keep_alive
    assert reader().feed(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")[0].keep_alive
    assert reader().feed(GET)[0].keep_alive
    assert not reader().feed(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")[0].keep_alive


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nBad Header: 1\r\n\r\n", 400),
        (b"CONNECT host:1 HTTP/1.1\r\n\r\n", 405),
        (b"CONNECT /v2 HTTP/1.1\r\n\r\n", 405),
        (b"GET /" + b"a" * 300 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 300 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: a\r\n" * 200 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"a" * 101, 413),
    ],
)
def test_a_bad_stream_is_refused_once_and_for_all(data: bytes, status: int) -> None:
    it = reader()
    assert it.feed(data) == []
    assert it.refusal is not None
    assert it.refusal.status == status
    assert it.feed(GET) == []


def test_a_header_that_never_ends_is_refused() -> None:
    it = reader()
    it.feed(b"GET / HTTP/1.1\r\nA: ")
    for _ in range(301):
        it.feed(b"a")
    assert it.refusal is not None
    assert it.refusal.status == 431


def test_many_small_requests_on_one_connection_are_not_counted_together() -> None:
    it = reader()
    for _ in range(20):
        assert len(it.feed(GET[:9])) == 0
        assert len(it.feed(GET[9:])) == 1
    assert len(it.feed(GET * 20 + GET[:10])) == 20
    assert it.refusal is None


def test_requests_before_the_bad_one_are_still_there() -> None:
    it = reader()
    assert len(it.feed(GET + b"nonsense\r\n\r\n")) == 1
    assert it.refusal is not None


def test_bodies_share_one_budget_which_is_given_back() -> None:
    limits = replace(LIMITS, buffered_max_bytes=8)
    budget = BodyBudget(limits.buffered_max_bytes)
    first, second = RequestReader(limits, budget), RequestReader(limits, budget)
    assert len(first.feed(POST)) == 1
    second.feed(POST)
    assert second.refusal is not None
    assert second.refusal.status == 503
    assert "Retry-After" in second.refusal.headers
    assert budget.take(3)
    assert not budget.take(1)


def test_what_was_read_in_part_is_given_back() -> None:
    budget = BodyBudget(5)
    it = RequestReader(LIMITS, budget)
    it.feed(POST[:-2])
    assert it.begun
    assert not budget.take(3)
    it.discard()
    assert budget.take(5)


def test_a_client_that_waits_for_continue_is_noticed() -> None:
    it = reader()
    it.feed(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert it.continue_wanted
    assert it.feed(b"ok")[0].body == b"ok"
    assert not it.continue_wanted
