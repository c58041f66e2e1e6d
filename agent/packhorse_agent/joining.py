"""Joining a fleet, by hand and once: the request that a device signs, and the enrolment that it is given.

The supervisor only reads what this leaves behind (`supervisor.identity`).
"""

from __future__ import annotations

from pathlib import Path

from packhorse_agent.contract.enrolment import Enrolment, SigningRequest
from packhorse_agent.errors import BadInputError, ConflictError
from packhorse_agent.store.durable import write_durable
from packhorse_agent.supervisor.identity import ENROLMENT_FILE, KEY_FILE, read_enrolment
from packhorse_agent.trust.anchor import check_anchor
from packhorse_agent.trust.errors import MalformedMetadataError
from packhorse_agent.trust.keys import DeviceKey, make_signing_request


def request_enrolment(state_folder: Path, device_id: str, profile: str) -> SigningRequest:
    """Make the device's key if there is none, and a signed request for it."""
    state_folder.mkdir(parents=True, exist_ok=True)
    key = DeviceKey.load_or_create(state_folder / KEY_FILE)
    return make_signing_request(key, device_id, profile)


def accept_enrolment(state_folder: Path, source: Path, device_id: str) -> Enrolment:
    """Take an enrolment in; the same one twice is no error, and a damaged one is replaced.

    Raises:
        BadInputError: not an enrolment, that of another device or key, or without a readable root.
        BadSignatureError: the root metadata is not signed by its own keys.
        ConflictError: the device is enrolled already, differently.
    """
    enrolment = read_enrolment(source)
    if enrolment.device_id != device_id:
        raise BadInputError(f"{source} enrols {enrolment.device_id}, this device is {device_id}")
    key = DeviceKey.load_or_create(state_folder / KEY_FILE)
    if enrolment.public_key not in (None, key.public_hex):
        raise BadInputError(
            f"{source} was made for another key of {device_id}: hand the newest request to the fleet's owner "
            "(`packhorse device enroll --replace-key`) and take the answer to that"
        )
    _check_anchor(source, enrolment)
    path = state_folder / ENROLMENT_FILE
    if _is_enrolled_differently(path, enrolment):
        raise ConflictError(f"{state_folder} is enrolled already; remove {path} to enrol it anew")
    write_durable(path, enrolment.model_dump_json().encode(), mode=0o600)
    return enrolment


def _check_anchor(source: Path, enrolment: Enrolment) -> None:
    """A device that trusts what is no root could never be told anything: better said at once."""
    try:
        check_anchor(enrolment.root_metadata.encode())
    except MalformedMetadataError as error:
        advice = "enrol the device anew with `packhorse device enroll`"
        raise BadInputError(f"{source} holds no trust anchor: {error}; {advice}") from error


def _is_enrolled_differently(path: Path, enrolment: Enrolment) -> bool:
    try:
        return path.exists() and read_enrolment(path) != enrolment
    except BadInputError:
        return False
