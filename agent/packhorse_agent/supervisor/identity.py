"""Who this device is: its key, its enrolment, and how often it has started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from packhorse_agent.contract.enrolment import Enrolment, SigningRequest
from packhorse_agent.errors import BadInputError, ConfigError, ConflictError
from packhorse_agent.store.durable import write_durable
from packhorse_agent.trust.errors import MalformedMetadataError
from packhorse_agent.trust.keys import DeviceKey, make_signing_request

KEY_FILE = "device.key"
ENROLMENT_FILE = "enrolment.json"


@dataclass(frozen=True)
class Identity:
    """The enrolled device."""

    key: DeviceKey
    enrolment: Enrolment

    @property
    def device_id(self) -> str:
        """The name under which the fleet knows the device."""
        return self.enrolment.device_id

    @property
    def fleet(self) -> str:
        """The fleet that it belongs to."""
        return self.enrolment.fleet


def load_identity(state_folder: Path) -> Identity:
    """Read key and enrolment.

    Raises:
        ConfigError: the device is not enrolled yet, or has lost its key; the text says what to do.
        BadInputError: the enrolment file cannot be read.
        DeviceKeyError: the key is damaged.
    """
    path = state_folder / ENROLMENT_FILE
    if not path.exists():
        raise ConfigError(
            f"{state_folder} is not enrolled: run `packhorse-agent request`, hand the request to the fleet's "
            "owner (`packhorse device enroll`), and give the answer to `packhorse-agent accept`"
        )
    enrolment = read_enrolment(path)
    key = state_folder / KEY_FILE
    if not key.exists():
        raise ConfigError(
            f"{key} is missing: the fleet knows the device by that key. Restore it, or remove {path} and "
            "enrol the device anew with `packhorse-agent request`"
        )
    return Identity(DeviceKey.load_or_create(key), enrolment)


def read_enrolment(path: Path) -> Enrolment:
    """Read an enrolment file.

    Raises:
        BadInputError: missing or not an enrolment.
    """
    try:
        return Enrolment.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInputError(f"{path} is no enrolment: {error.strerror}") from error
    except ValidationError as error:
        advice = "it must be the file that `packhorse device enroll` wrote"
        raise BadInputError(f"{path} is no enrolment: {advice}") from error


def request_enrolment(state_folder: Path, device_id: str, profile: str) -> SigningRequest:
    """Make the device's key if there is none, and a signed request for it."""
    state_folder.mkdir(parents=True, exist_ok=True)
    key = DeviceKey.load_or_create(state_folder / KEY_FILE)
    return make_signing_request(key, device_id, profile)


def accept_enrolment(state_folder: Path, source: Path, device_id: str) -> Enrolment:
    """Take an enrolment in; the same one twice is no error, and a damaged one is replaced.

    Raises:
        BadInputError: not an enrolment, or that of another device, or its root metadata cannot be read.
        BadSignatureError: the root metadata is not signed by its own keys.
        ConflictError: the device is enrolled already, differently.
    """
    enrolment = read_enrolment(source)
    if enrolment.device_id != device_id:
        raise BadInputError(f"{source} enrols {enrolment.device_id}, this device is {device_id}")
    _check_anchor(source, enrolment)
    path = state_folder / ENROLMENT_FILE
    if _is_enrolled_differently(path, enrolment):
        raise ConflictError(f"{state_folder} is enrolled already; remove {path} to enrol it anew")
    write_durable(path, enrolment.model_dump_json().encode(), mode=0o600)
    return enrolment


def _check_anchor(source: Path, enrolment: Enrolment) -> None:
    """A device that trusts what is no root could never be told anything: better said at once."""
    # here, because the supervisor does without python-tuf
    from packhorse_agent.trust.anchor import check_anchor

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
