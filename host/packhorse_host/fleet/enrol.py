"""Enrols a device: its key into the database, its name to the broker, and what it needs into one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from packhorse_agent.contract.base import Name
from packhorse_agent.contract.enrolment import BrokerAddress, Enrolment, SigningRequest
from packhorse_agent.trust.keys import check_signing_request
from packhorse_host.broker import CredentialStore, generate_password
from packhorse_host.errors import BadInputError
from packhorse_host.fleet.database import append_audit
from packhorse_host.fleet.devices import add_device
from packhorse_host.fleet.opened import OpenedFleet

_TAG: TypeAdapter[str] = TypeAdapter(Name)


def read_signing_request(path: Path) -> SigningRequest:
    """Read a request and check that the key in it signed it.

    Raises:
        BadInputError: missing, or no request.
        UntrustedError: the signature is not the key's.
    """
    try:
        request = SigningRequest.model_validate_json(path.read_bytes())
    except OSError as error:
        text = f"{path}: {error.strerror}; a signing request is expected, made with `packhorse-agent request`"
        raise BadInputError(text) from error
    except ValidationError as error:
        text = f"{path} is no signing request; make one with `packhorse-agent request`"
        raise BadInputError(text) from error
    check_signing_request(request)
    return request


def enrol_device(
    fleet: OpenedFleet, request: SigningRequest, tags: Sequence[str] | None, actor: str, now_s: float
) -> Enrolment:
    """Enrol a device, or give one that is enrolled a new password; tags of None keep those that it has.

    Raises:
        BadInputError: a tag is no name.
        ConflictError: the device's name belongs to another key.
    """
    for tag in tags or ():
        _check_tag(tag)
    workspace = fleet.workspace
    with fleet.database.transaction() as connection:
        add_device(connection, request, tags, now_s)
        append_audit(connection, now_s, actor, f"enrol {request.device_id} as {request.profile}")
    password = generate_password()
    CredentialStore(workspace.broker_folder).add(request.device_id, password)
    broker = workspace.settings.broker
    return Enrolment(
        fleet=workspace.fleet,
        device_id=request.device_id,
        broker=BrokerAddress(
            host=broker.advertised_host,
            port=broker.port,
            username=request.device_id,
            password=password,
            tls_ca_pem=workspace.broker_ca_pem(),
        ),
        root_metadata=fleet.repository.root_metadata().decode(),
    )


def _check_tag(tag: str) -> None:
    try:
        _TAG.validate_python(tag)
    except ValidationError as error:
        raise BadInputError(f"{tag!r} is no tag: lower-case letters, digits, '.', '_' and '-'") from error
