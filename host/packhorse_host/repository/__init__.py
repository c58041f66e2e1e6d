"""The fleet's TUF repository: keys, roles, publishing, and what devices are given of it."""

from packhorse_host.repository.errors import (
    BelowMinimumError,
    BusyRepositoryError,
    DamagedRepositoryError,
    MissingKeyError,
    ReleaseTakenError,
    TooLargeError,
    WrongPassphraseError,
)
from packhorse_host.repository.keyring import KeyRing, never_ask
from packhorse_host.repository.metadata import Lifetimes
from packhorse_host.repository.release_info import ReleaseInfo
from packhorse_host.repository.repository import KeyPlan, Repository
from packhorse_host.repository.rotation import Rotation
from packhorse_host.repository.standing import RoleStanding

__all__ = [
    "BelowMinimumError",
    "BusyRepositoryError",
    "DamagedRepositoryError",
    "KeyPlan",
    "KeyRing",
    "Lifetimes",
    "MissingKeyError",
    "ReleaseInfo",
    "ReleaseTakenError",
    "Repository",
    "RoleStanding",
    "Rotation",
    "TooLargeError",
    "WrongPassphraseError",
    "never_ask",
]
