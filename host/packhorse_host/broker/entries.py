"""One credential: who it is for and what is kept of the password."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from packhorse_host.errors import BadInputError

CONTROLLER_USERNAME: Final = "_controller"
"""The controller's usual name; no device id begins with an underscore."""

_USERNAME = re.compile(r"_?[a-z0-9][a-z0-9._-]{0,62}")


class Role(str, Enum):
    """What a credential may do; see `access`."""

    CONTROLLER = "controller"
    DEVICE = "device"


class Credential(BaseModel):
    """A username and hashes of its password, one for each kind of broker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    username: str
    role: Role
    pbkdf2_sha512: str = Field(pattern=r"^\$7\$[0-9]+\$[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+$")
    """As `mosquitto_passwd` writes it: `$7$ITERATIONS$SALT$HASH`, salt and hash in base 64."""
    bcrypt: str = Field(pattern=r"^\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}$")
    """As the NATS server reads it."""

    @model_validator(mode="after")
    def _name_fits_role(self) -> Credential:
        check_username(self.username, self.role)
        return self


def check_username(username: str, role: Role) -> None:
    """Hold usernames to what is safe in a topic and in both brokers' files.

    Raises:
        BadInputError: not a device id, or a controller's name without its underscore.
    """
    if not _USERNAME.fullmatch(username):
        raise BadInputError(
            f"{username!r} cannot name a device: lower-case letters, digits, '.', '_', '-', at most 63, "
            "a letter or digit first"
        )
    if username.startswith("_") != (role is Role.CONTROLLER):
        raise BadInputError(
            f"{username!r} is no name for a {role.value}: only a controller's begins with '_'"
        )
