"""Who this device is: its key, its enrolment, and how often it has started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from packhorse_agent.contract.enrolment import Enrolment
from packhorse_agent.errors import BadInputError, ConfigError
from packhorse_agent.trust.keys import DeviceKey

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
