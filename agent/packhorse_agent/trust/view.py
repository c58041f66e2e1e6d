"""What the accepted metadata says: rollouts, tags, targets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from tuf.api.metadata import TargetFile

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.rollout import Assignments, RolloutsDocument, assignments_target
from packhorse_agent.contract.selection import assignment_key, assignment_shard
from packhorse_agent.errors import UntrustedError
from packhorse_agent.trust.errors import ExpiredMetadataError, MalformedMetadataError, MixedMetadataError
from packhorse_agent.trust.ports import NeedsBlobs, TargetInfo
from packhorse_agent.trust.session import BlobMissingError, check_length
from packhorse_agent.trust.signed import signed_blob

ROLLOUTS_ROLE_FILE = "rollouts.json"
TARGETS_FOLDER = "targets/"

D = TypeVar("D", bound=BaseModel)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Times:
    """Dates out of signed metadata, aware, UTC."""

    expires: datetime
    """The earliest of root, timestamp, snapshot, targets and rollouts."""
    issued_at: datetime
    """The newest that keys kept offline (root, targets) have signed."""


class Source(Protocol):
    """Where a view gets what it was not made with."""

    def document(self, path: str, target: TargetFile) -> bytes:
        """A document of the rollouts role; raises `BlobMissingError` or `MixedMetadataError`."""

    def find_target(self, path: str) -> TargetInfo | None:
        """Run the client for a target path; raises `BlobMissingError` or `UntrustedError`."""


@dataclass
class TrustedView:
    """Accepted metadata at the moment when it was made; what it must pull first, it says by `NeedsBlobs`."""

    rollouts: RolloutsDocument
    version: int
    """The timestamp's version: it grows with everything that is published."""
    times: Times
    expired: bool
    """It had expired when the view was made: keep serving, install nothing."""
    documents: Mapping[str, TargetFile]
    """Targets of the rollouts role, by TUF path."""
    source: Source
    _tags: dict[str, frozenset[str]] = field(default_factory=dict)
    _targets: dict[str, TargetInfo | None] = field(default_factory=dict)

    @property
    def expires(self) -> datetime:
        """From then on nothing may be installed by it."""
        return self.times.expires

    @property
    def issued_at(self) -> datetime:
        """A floor for the clock: see `DurableClock.advance`."""
        return self.times.issued_at

    def tags(self, device_id: str) -> frozenset[str] | NeedsBlobs:
        """The tags that the fleet's owner gave a device."""
        if device_id not in self._tags:
            found = _pulled(lambda: self._find_tags(device_id))
            if isinstance(found, NeedsBlobs):
                return found
            self._tags[device_id] = found
        return self._tags[device_id]

    def resolve(self, target_path: str) -> TargetInfo | NeedsBlobs | None:
        """What a release key signed for a target path; None when none signed it."""
        if target_path not in self._targets:
            found = _pulled(lambda: self._find_target(target_path))
            if isinstance(found, NeedsBlobs):
                return found
            self._targets[target_path] = found
        return self._targets[target_path]

    def _find_tags(self, device_id: str) -> frozenset[str]:
        path = assignments_target(assignment_shard(device_id))
        target = self.documents.get(path)
        if target is None:
            return frozenset()
        assignments = parse_document(Assignments, path, self.source.document(path, target))
        return frozenset(assignments.tags.get(assignment_key(assignments.salt, device_id), ()))

    def _find_target(self, target_path: str) -> TargetInfo | None:
        try:
            return self.source.find_target(target_path)
        except ExpiredMetadataError:
            raise
        except UntrustedError as error:
            _log.warning("no release key answers for %s: %s", target_path, error)
            return None


R = TypeVar("R")


def _pulled(find: Callable[[], R]) -> R | NeedsBlobs:
    try:
        return find()
    except BlobMissingError as missing:
        return NeedsBlobs((missing.blob,), f"{missing.name} has to be pulled")
    except UntrustedError as error:
        return NeedsBlobs((), str(error))


def parse_document(kind: type[D], path: str, content: bytes) -> D:
    """Read a signed document.

    Raises:
        MalformedMetadataError: signed, but not what its path says.
    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise MalformedMetadataError(f"{path} cannot be read: {error}") from error


def is_signed_content(path: str, target: TargetFile, content: bytes) -> bool:
    """Whether `content` is what `target` names.

    Raises:
        IncompleteMetadataError, OversizedMetadataError, MalformedMetadataError: see `signed_blob`.
    """
    blob = signed_blob(path, target)
    return len(content) == blob.size_bytes and sha256_hex(content) == blob.sha256


def offered_document(path: str, target: TargetFile, offered: Mapping[str, bytes]) -> bytes | None:
    """A document as it lies in a trust set; None when it does not.

    Raises:
        MixedMetadataError: it is another document than the rollouts role signed.
        OversizedMetadataError: it is larger than any may be.
    """
    content = offered.get(TARGETS_FOLDER + path)
    if content is None:
        return None
    check_length(path, content)
    if not is_signed_content(path, target, content):
        raise MixedMetadataError(f"{path} is not the document that its role signed")
    return content
