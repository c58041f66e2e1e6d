"""What a device asks of its trust in the fleet, and what it gets: plain data, whoever verified it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from packhorse_agent.contract.rollout import RolloutsDocument

BlobReader = Callable[[str], bytes | None]
"""SHA-256 → the blob's bytes if the device has it."""


@dataclass(frozen=True)
class NeededBlob:
    """Metadata to pull by hash; digest, size and index are signed."""

    sha256: str
    size_bytes: int
    chunk_index: tuple[str, ...] = ()


@dataclass(frozen=True)
class NeedsBlobs:
    """Nothing can be said until these are there; with no blobs, until there is newer metadata."""

    blobs: tuple[NeededBlob, ...]
    reason: str = ""


@dataclass(frozen=True)
class TargetInfo:
    """What a release key signed for a target."""

    sha256: str
    size_bytes: int
    minimum_version: str
    """The oldest version of the model that may still be installed; "0" when none is signed."""


class View(Protocol):
    """Accepted metadata at the moment when the view was made."""

    @property
    def rollouts(self) -> RolloutsDocument:
        """What the whole fleet should run."""

    @property
    def version(self) -> int:
        """The timestamp's version: it grows with everything that is published."""

    @property
    def expires(self) -> datetime:
        """From then on nothing may be installed by it; aware."""

    @property
    def issued_at(self) -> datetime:
        """A floor for the clock: see `DurableClock.advance`; aware."""

    @property
    def expired(self) -> bool:
        """It had expired when the view was made: keep serving, install nothing."""

    def tags(self, device_id: str) -> frozenset[str] | NeedsBlobs:
        """The tags that the fleet's owner gave a device."""

    def resolve(self, target_path: str) -> TargetInfo | NeedsBlobs | None:
        """What a release key signed for a target path; None when none signed it."""


class Keeper(Protocol):
    """One device's trust in one fleet."""

    def offer(self, files: Mapping[str, bytes], blobs: BlobReader, now: datetime) -> View | NeedsBlobs:
        """Verify a trust set at the time `now` and accept it whole, or say what must be pulled first.

        Raises:
            UntrustedError subclasses: refused; what was accepted before stays as it was (see `errors`).
            EnvironmentFaultError: it could not be verified or kept, and so was not accepted.
        """

    def current(self, now: datetime, blobs: BlobReader) -> View | None:
        """What was accepted last, also after a restart; None when nothing was. `expired` may be set."""

    def rest(self) -> None:
        """Nothing more will be asked soon: give back what is held only to answer fast."""
