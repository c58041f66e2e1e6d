"""Takes trust sets in: verified whole or refused whole, and what was accepted survives a restart."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from tuf.api.metadata import Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.rollout import ROLLOUTS_TARGET, RolloutsDocument
from packhorse_agent.errors import UntrustedError
from packhorse_agent.store.files import OS_FILES, Files
from packhorse_agent.trust.accepted import Accepted, AcceptedStore
from packhorse_agent.trust.errors import IncompleteMetadataError, MixedMetadataError, WrongFleetError
from packhorse_agent.trust.ports import BlobReader, NeedsBlobs, TargetInfo
from packhorse_agent.trust.release import ISSUED_AT_FIELD, minimum_version, model_role_file
from packhorse_agent.trust.session import (
    ROOT_FILE,
    SNAPSHOT_FILE,
    TARGETS_FILE,
    TIMESTAMP_FILE,
    BlobMissingError,
    Session,
    check_length,
)
from packhorse_agent.trust.signed import signed_blob
from packhorse_agent.trust.view import (
    ROLLOUTS_ROLE_FILE,
    TARGETS_FOLDER,
    Times,
    TrustedView,
    is_signed_content,
    offered_document,
    parse_document,
)

_TOP_LEVEL = (ROOT_FILE, TIMESTAMP_FILE, SNAPSHOT_FILE, TARGETS_FILE, ROLLOUTS_ROLE_FILE)

_log = logging.getLogger(__name__)


def _no_blobs(_sha256: str) -> bytes | None:
    return None


class TrustKeeper:
    """One device's trust in one fleet; its folder belongs to it alone. Not thread safe."""

    def __init__(self, folder: Path, root_metadata: bytes, fleet: str, disk: Files = OS_FILES) -> None:
        self._folder = folder
        self._anchor = root_metadata
        self._fleet = fleet
        self._store = AcceptedStore(folder, sha256_hex(root_metadata), disk)
        self._accepted = self._store.load()

    def offer(self, files: Mapping[str, bytes], blobs: BlobReader, now: datetime) -> TrustedView | NeedsBlobs:
        """Verify a trust set at the time `now` and accept it, or say what must be pulled first.

        Raises:
            UntrustedError subclasses: refused; what was accepted before stays as it was (see `errors`).
            StorageFullError, StorageFaultError: it could not be kept, and so was not accepted.
        """
        for name, data in files.items():
            check_length(name, data)
        try:
            return self._take(files, blobs, now)
        except BlobMissingError as missing:
            return NeedsBlobs((missing.blob,), f"{missing.name} has to be pulled")

    def current(self, now: datetime, blobs: BlobReader = _no_blobs) -> TrustedView | None:
        """What was accepted last, also after a restart; None when nothing was. `expired` may be set."""
        accepted = self._accepted
        if accepted is None:
            return None
        try:
            return self._view_again(accepted, blobs, now)
        except (UntrustedError, BlobMissingError) as error:
            _log.error("accepted metadata does not verify any more, newer is awaited: %s", error)
            return None

    def rest(self) -> None:
        """Nothing is held between calls."""

    def _view_again(self, accepted: Accepted, blobs: BlobReader, now: datetime) -> TrustedView:
        with self._replay(accepted, blobs) as session:
            session.refresh()
            rollouts_role = _rollouts_role(session)
            content = _document(ROLLOUTS_TARGET, rollouts_role.targets, {}, accepted.files, blobs)
            return self._view(session, rollouts_role, content, accepted, blobs, now)

    def _take(self, files: Mapping[str, bytes], blobs: BlobReader, now: datetime) -> TrustedView:
        known = self._accepted.files if self._accepted else {ROOT_FILE: self._anchor}
        with Session(self._folder, known, files, blobs, now) as session:
            session.refresh()
            rollouts_role = _rollouts_role(session)
            content = _document(ROLLOUTS_TARGET, rollouts_role.targets, files, known, blobs)
            kept = {name: raw for name in _TOP_LEVEL if (raw := session.raw(name)) is not None}
            kept |= _delegated_files(session, files, known)
            kept |= _documents(rollouts_role.targets, files, known)
            kept[TARGETS_FOLDER + ROLLOUTS_TARGET] = content
            accepted = Accepted(kept, now)
            view = self._view(session, rollouts_role, content, accepted, blobs, now)
        self._keep(accepted)
        return view

    def _view(
        self,
        session: Session,
        rollouts_role: Targets,
        content: bytes,
        accepted: Accepted,
        blobs: BlobReader,
        now: datetime,
    ) -> TrustedView:
        rollouts = parse_document(RolloutsDocument, ROLLOUTS_TARGET, content)
        if rollouts.fleet != self._fleet:
            raise WrongFleetError(f"metadata of the fleet {rollouts.fleet}, this device is in {self._fleet}")
        root, timestamp, snapshot, targets = _top_level(session)
        signed: tuple[Signed, ...] = (root, timestamp, snapshot, targets, rollouts_role)
        expires = min(part.expires for part in signed)
        return TrustedView(
            rollouts=rollouts,
            version=timestamp.version,
            times=Times(expires, max(_issued_at(root), _issued_at(targets))),
            expired=expires <= now,
            documents=dict(rollouts_role.targets),
            source=_ViewSource(self, accepted, blobs),
        )

    def _replay(self, accepted: Accepted, blobs: BlobReader) -> Session:
        """Run over accepted metadata, at the time when it was verified: its dates were good then."""
        offered = {TIMESTAMP_FILE: accepted.files[TIMESTAMP_FILE]}
        return Session(self._folder, accepted.files, offered, blobs, accepted.checked_at)

    def _keep(self, accepted: Accepted) -> None:
        if self._accepted is None or dict(self._accepted.files) != dict(accepted.files):
            self._store.save(accepted)
        self._accepted = accepted

    def _remember(self, base: Accepted, more: Mapping[str, bytes]) -> Accepted:
        """Keep what a view pulled, unless newer metadata has been accepted meanwhile."""
        extended = Accepted({**base.files, **more}, base.checked_at)
        if self._accepted is base and more:
            self._keep(extended)
        return extended


@dataclass
class _ViewSource:
    """Answers a view out of accepted files, then out of blobs, and keeps what it had to pull."""

    keeper: TrustKeeper
    accepted: Accepted
    blobs: BlobReader

    def document(self, path: str, target: TargetFile) -> bytes:
        known = self.accepted.files
        content = _document(path, {path: target}, {}, known, self.blobs)
        if TARGETS_FOLDER + path not in known:
            self._remember({TARGETS_FOLDER + path: content})
        return content

    def find_target(self, path: str) -> TargetInfo | None:
        with self.keeper._replay(self.accepted, self.blobs) as session:
            target = session.target(path)
            role_file = model_role_file(path)
            role = session.signed(Targets, role_file) if role_file else None
            if target is None:
                return None
            blob = signed_blob(path, target)
            if role_file and role_file not in self.accepted.files and (raw := session.raw(role_file)):
                self._remember({role_file: raw})
            return TargetInfo(blob.sha256, blob.size_bytes, minimum_version(role))

    def _remember(self, more: Mapping[str, bytes]) -> None:
        self.accepted = self.keeper._remember(self.accepted, more)


def _rollouts_role(session: Session) -> Targets:
    target = session.target(ROLLOUTS_TARGET)
    role = session.signed(Targets, ROLLOUTS_ROLE_FILE)
    if target is None or role is None or role.targets.get(ROLLOUTS_TARGET) != target:
        raise IncompleteMetadataError(f"no role signed {ROLLOUTS_TARGET}")
    return role


def _top_level(session: Session) -> tuple[Root, Timestamp, Snapshot, Targets]:
    root = session.signed(Root, ROOT_FILE)
    timestamp = session.signed(Timestamp, TIMESTAMP_FILE)
    snapshot = session.signed(Snapshot, SNAPSHOT_FILE)
    targets = session.signed(Targets, TARGETS_FILE)
    if root is None or timestamp is None or snapshot is None or targets is None:
        raise IncompleteMetadataError("the metadata is not whole")
    return root, timestamp, snapshot, targets


def _delegated_files(
    session: Session, offered: Mapping[str, bytes], known: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Role files that the snapshot names, offered or known; the client checks signatures on use.

    Raises:
        MixedMetadataError: an offered role file is not the one that the snapshot names.
    """
    snapshot = session.signed(Snapshot, SNAPSHOT_FILE)
    found: dict[str, bytes] = {}
    for file, meta in snapshot.meta.items() if snapshot else ():
        versioned = f"{meta.version}.{file}"
        sha256 = signed_blob(file, meta).sha256
        if versioned in offered and sha256_hex(offered[versioned]) != sha256:
            raise MixedMetadataError(f"{versioned} is not the file that the snapshot names")
        content = offered.get(versioned, known.get(file))
        if file not in _TOP_LEVEL and content is not None and sha256_hex(content) == sha256:
            found[file] = content
    return found


def _documents(
    targets: Mapping[str, TargetFile], offered: Mapping[str, bytes], known: Mapping[str, bytes]
) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path, target in targets.items():
        content = offered_document(path, target, offered)
        if content is None:
            content = known.get(TARGETS_FOLDER + path)
        if content is not None and is_signed_content(path, target, content):
            found[TARGETS_FOLDER + path] = content
    return found


def _document(
    path: str,
    targets: Mapping[str, TargetFile],
    offered: Mapping[str, bytes],
    known: Mapping[str, bytes],
    blobs: BlobReader,
) -> bytes:
    target = targets[path]
    found = _documents({path: target}, offered, known)
    if found:
        return found[TARGETS_FOLDER + path]
    blob = signed_blob(path, target)
    content = blobs(blob.sha256)
    if content is None:
        raise BlobMissingError(blob, path)
    if not is_signed_content(path, target, content):
        raise MixedMetadataError(f"{path} is not the document that its role signed")
    return content


def _issued_at(signed: Root | Targets) -> datetime:
    epoch = datetime.fromtimestamp(0, timezone.utc)
    try:
        text = str(signed.unrecognized_fields.get(ISSUED_AT_FIELD, ""))
        issued_at = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return epoch
    return min(issued_at, signed.expires)
