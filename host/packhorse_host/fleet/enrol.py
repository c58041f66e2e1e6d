"""Enrols and removes devices: the key in the database, the name at the broker, and what a device needs.

The order of the two writes is the safe one: a device is let in only after its key is known, and is shut out
before it is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from packhorse_agent.contract.base import Name
from packhorse_agent.contract.enrolment import BrokerAddress, Enrolment, SigningRequest
from packhorse_agent.trust.keys import check_signing_request
from packhorse_host.broker import CredentialStore, generate_password
from packhorse_host.errors import BadInputError, NotFoundError
from packhorse_host.fleet.database import append_audit
from packhorse_host.fleet.devices import Enrolled, add_device, remove_device
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
    fleet: OpenedFleet,
    request: SigningRequest,
    tags: Sequence[str] | None,
    actor: str,
    now_s: float,
    *,
    replace_key: bool = False,
) -> Enrolment:
    """Enrol a device, or give one that is enrolled a new password; tags of None keep those that it has.

    `replace_key` lets a device that lost its key come back under its name; the old key is refused for good.

    Raises:
        BadInputError: a tag is no name.
        ConflictError: the device's name belongs to another key, or this key was replaced before.
    """
    for tag in tags or ():
        _check_tag(tag)
    workspace = fleet.workspace
    with fleet.database.transaction() as connection:
        outcome = add_device(connection, request, tags, now_s, replace_key=replace_key)
        append_audit(connection, now_s, actor, _audit_text(request, outcome))
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
        public_key=request.public_key,
        root_metadata=fleet.repository.root_metadata().decode(),
    )


def expel_device(fleet: OpenedFleet, device_id: str, actor: str, now_s: float) -> bool:
    """Shut a device out and take it from the fleet; its history stays. Twice is harmless (then False).

    Raises:
        NotFoundError: it was never enrolled.
        EnvironmentFaultError: the broker's credentials or the database cannot be written.
    """
    with fleet.database.transaction() as connection:
        removed = remove_device(connection, device_id, now_s)
        if removed:
            append_audit(connection, now_s, actor, f"remove {device_id}")
        # Also of one that was removed before: a kill may have come between the two writes.
        with suppress(NotFoundError):
            CredentialStore(fleet.workspace.broker_folder).remove(device_id)
    return removed


def _audit_text(request: SigningRequest, outcome: Enrolled) -> str:
    text = f"enrol {request.device_id} as {request.profile}"
    if outcome is Enrolled.KEY_REPLACED:
        return f"{text}, key replaced by {request.public_key}"
    return text


def _check_tag(tag: str) -> None:
    try:
        _TAG.validate_python(tag)
    except ValidationError as error:
        raise BadInputError(f"{tag!r} is no tag: lower-case letters, digits, '.', '_' and '-'") from error
