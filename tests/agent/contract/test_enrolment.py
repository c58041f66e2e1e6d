"""Enrolment documents, and what a signing request's signature covers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from packhorse_agent.contract.enrolment import BrokerAddress, Enrolment, SigningRequest, request_message
from tests.agent.contract.strategies import digests, names

REQUEST = {"device_id": "d1", "profile": "raspberry-pi-5", "public_key": "0" * 64, "signature": "0" * 128}
BROKER = {"host": "broker", "port": 8883, "username": "d1", "password": "secret"}


@given(names, names, digests, names, names, digests)
def test_different_requests_are_never_signed_alike(
    device_a: str, profile_a: str, key_a: str, device_b: str, profile_b: str, key_b: str
) -> None:
    left, right = (device_a, profile_a, key_a), (device_b, profile_b, key_b)
    assert (request_message(*left) == request_message(*right)) is (left == right)


def test_a_request_can_pass_for_nothing_else() -> None:
    assert request_message("d1", "p", "00").startswith(b"packhorse-enrolment-v1\0")


def test_documents_read_back() -> None:
    request = SigningRequest.model_validate(REQUEST)
    enrolment = Enrolment(
        fleet="f", device_id="d1", broker=BrokerAddress.model_validate(BROKER), root_metadata="{}"
    )
    assert SigningRequest.model_validate_json(request.model_dump_json()) == request
    assert Enrolment.model_validate_json(enrolment.model_dump_json()) == enrolment


@pytest.mark.parametrize(
    "changes",
    [
        {"device_id": "D1"},
        {"device_id": "a/b"},
        {"profile": ""},
        {"public_key": "0" * 63},
        {"public_key": "A" * 64},
        {"signature": "0" * 127},
        {"signature": "0" * 128 + "\n"},
        {"format": 2},
    ],
)
def test_a_broken_request_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SigningRequest.model_validate({**REQUEST, **changes})


@pytest.mark.parametrize("port", [0, 65536, "mqtt"])
def test_a_broker_has_a_real_port(port: object) -> None:
    with pytest.raises(ValidationError):
        BrokerAddress.model_validate({**BROKER, "port": port})
