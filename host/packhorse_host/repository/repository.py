"""The repository of one fleet: the only thing that signs."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError
from tuf.api.metadata import Snapshot, Targets, Timestamp

from packhorse_agent.contract.base import Version, canonical_json, sha256_hex, version_key
from packhorse_agent.contract.limits import METADATA_MAX_BYTES
from packhorse_agent.contract.rollout import (
    ROLLOUTS_TARGET,
    Assignments,
    BundleRef,
    RolloutsDocument,
    assignments_target,
)
from packhorse_agent.store.files import OS_FILES, Files
from packhorse_agent.trust.bundle_folder import verify_bundle_folder
from packhorse_agent.trust.clock import utc_now
from packhorse_agent.trust.release import MINIMUM_VERSION_FIELD, model_role
from packhorse_host.errors import BadInputError, EnvironmentFaultError, NotFoundError, RefusedError
from packhorse_host.repository.content import ContentFolder, in_memory, index_levels
from packhorse_host.repository.errors import DamagedRepositoryError, TooLargeError
from packhorse_host.repository.founding import KeyPlan, found_repository
from packhorse_host.repository.keyring import Ask, KeyRing, never_ask
from packhorse_host.repository.metadata import (
    TIMESTAMP_FILE,
    Lifetimes,
    MetadataFolder,
    State,
    describe_target,
    parse_metadata,
)
from packhorse_host.repository.publishing import (
    Publication,
    add_content,
    is_whole,
    make_publications,
    mend_content,
    sign_publication,
    unpublished,
)
from packhorse_host.repository.release_info import ReleaseInfo, published_releases
from packhorse_host.repository.rotation import (
    Rotation,
    open_keys_to_renew,
    open_keys_to_rotate,
    renew,
    rotate,
)
from packhorse_host.repository.signers import Signers
from packhorse_host.repository.standing import RoleStanding, role_standings
from packhorse_host.repository.transaction import Transaction, prune
from packhorse_host.repository.trust_set import build_trust_set
from packhorse_host.repository.writer_lock import writer_lock

__all__ = ["KeyPlan", "Repository"]

_FOLDERS = ("metadata", "blobs")
_WAIT_S = 30.0
_VERSION: TypeAdapter[str] = TypeAdapter(Version)

_log = logging.getLogger(__name__)


class Repository:
    """`metadata/` (TUF) and `blobs/` in one folder. Any number of processes may read and write it.

    Raises, from every method that signs, besides what it names itself:
        DamagedRepositoryError: metadata is missing or cannot be read.
        MissingKeyError: a key is not here.
        BusyRepositoryError: another writer does not come to an end.
        StorageFullError, StorageFaultError: the disk does not take it; nothing was changed.
    """

    def __init__(
        self,
        folder: Path,
        keys: KeyRing,
        fleet: str,
        clock: Callable[[], datetime] = utc_now,
        lifetimes: Lifetimes | None = None,
        disk: Files = OS_FILES,
    ) -> None:
        self._folder = folder
        self._keys = keys
        self._fleet = fleet
        self._clock = clock
        self._lifetimes = lifetimes or Lifetimes()
        self._disk = disk
        self._metadata = MetadataFolder(folder / "metadata", disk)
        self._content = ContentFolder(folder / "blobs", disk)
        self._seen: tuple[tuple[int, int], int] | None = None
        self._by_digest: tuple[int, dict[str, bytes]] | None = None

    def found(self, plan: KeyPlan) -> None:
        """Make keys and the first metadata in an empty folder.

        Raises:
            StorageFullError, StorageFaultError: the disk does not take it.
        """
        for name in _FOLDERS:
            self._disk.make_folder(self._folder / name)
        now = self._clock()
        found_repository(self._metadata, self._content, self._keys, plan, self._fleet, self._lifetimes, now)

    # what is published ------------------------------------------------------------------------------------

    def publish(self, bundle_folders: Sequence[Path], ask: Ask = never_ask) -> list[BundleRef]:
        """Verify bundles and sign them into their models' roles, all or none; what is there is no error.

        Of what is there, files that are missing or were damaged on the disk are put back.

        Raises:
            NotABundleError, TamperedBundleError, TruncatedBundleError: see `verify_bundle_folder`.
            ReleaseTakenError: another bundle was published under the same name.
            BelowMinimumError: a release is older than its model's minimum.
            WrongPassphraseError: a key does not open.
            TooLargeError: a model has too many bundles.
        """
        publications = make_publications(verify_bundle_folder(folder) for folder in bundle_folders)
        state = self._metadata.load()
        signers = Signers(self._keys, ask)
        new = unpublished(publications, state)
        torn = [one for one in publications if one not in new and not is_whole(one, self._content)]
        if new:
            self._open_keys(new, state, signers)
        if new or torn:
            with self._publishing():
                for publication in torn:
                    mend_content(publication, self._content)
                self._publish(new, signers)
        return [publication.ref for publication in publications]

    def set_minimum_version(self, model: str, version: str, ask: Ask = never_ask) -> None:
        """Sign the oldest version of a model that devices may still install.

        Raises:
            BadInputError: that is no version.
            NotFoundError: the model was never published.
            RefusedError: no published release would be left.
            WrongPassphraseError: the model's key does not open.
        """
        _check_version(version)
        signers, state = Signers(self._keys, ask), self._metadata.load()
        signers.of_model(_role_of(model, state), state)
        with self._changing(signers) as change:
            role = _role_of(model, change.state)
            versions = [one.version for one in published_releases(change.state) if one.model == model]
            if all(version_key(one) < version_key(version) for one in versions):
                raise RefusedError(f"no published release of {model} would be left at or above {version}")
            change.role(role).unrecognized_fields[MINIMUM_VERSION_FIELD] = version

    def standings(self) -> list[RoleStanding]:
        """Until when each role holds, and which keys are at hand.

        Raises:
            DamagedRepositoryError: metadata is missing or cannot be read.
        """
        return role_standings(self._metadata.load(), self._keys)

    def renew(self, roles: Sequence[str], ask: Ask = never_ask) -> None:
        """Sign roles anew as they are, so that they hold for another lifetime.

        Raises:
            NotFoundError: there is no such role.
            MissingKeyError, WrongPassphraseError: nothing was changed.
        """
        signers, state = Signers(self._keys, ask), self._metadata.load()
        open_keys_to_renew(roles, state, signers)
        with self._changing(signers) as change:
            renew(roles, change)

    def rotate(self, rotation: Rotation, ask: Ask = never_ask) -> None:
        """Replace keys by new ones; devices refuse the old ones as soon as they have taken the change in.

        Raises:
            NotFoundError: there is no such role.
            MissingKeyError, WrongPassphraseError: a key that has to sign for it; nothing was changed.
        """
        signers, state = Signers(self._keys, ask), self._metadata.load()
        open_keys_to_rotate(rotation, state, signers)
        with self._changing(signers) as change:
            rotate(rotation, change)
        for name in rotation.surplus_keys():
            self._keys.discard(name)

    def root_plan(self) -> tuple[int, int]:
        """How many root keys there are, and how many of them must sign."""
        role = self._metadata.load().root.roles["root"]
        return len(role.keyids), role.threshold

    def releases(self) -> list[ReleaseInfo]:
        """All published bundles, by model, version, profile, recipe."""
        return published_releases(self._metadata.load())

    # rollouts ---------------------------------------------------------------------------------------------

    def set_rollouts(self, document: RolloutsDocument, assignments: Mapping[int, Assignments]) -> None:
        """Sign the rollouts document and all tag assignments (shard → its devices) with the online key.

        Shards that are not named are taken away. What does not change anything signs nothing.

        Raises:
            BadInputError: the document is another fleet's.
            TooLargeError: a document is larger than devices take.
        """
        if document.fleet != self._fleet:
            raise BadInputError(f"rollouts of the fleet {document.fleet}; this repository is {self._fleet}'s")
        contents = {ROLLOUTS_TARGET: canonical_json(document)}
        contents |= {assignments_target(shard): canonical_json(one) for shard, one in assignments.items()}
        for path, content in contents.items():
            if len(content) > METADATA_MAX_BYTES:
                raise TooLargeError(
                    f"{path} would have {len(content)} bytes, {METADATA_MAX_BYTES} is the most"
                )
        targets = {path: describe_target(path, content) for path, content in contents.items()}
        if targets == self._metadata.load().roles["rollouts"].targets:
            return
        with self._changing(Signers(self._keys)) as change:
            for content in contents.values():
                self._content.add_bytes(content)
            change.role("rollouts").targets = targets

    def rollouts(self) -> RolloutsDocument:
        """The document that devices evaluate now."""
        sha256 = self._metadata.load().roles["rollouts"].targets[ROLLOUTS_TARGET].hashes["sha256"]
        stream = self._content.open(sha256)
        if stream is None:
            raise DamagedRepositoryError(f"the rollouts document {sha256} is missing")
        with stream:
            return RolloutsDocument.model_validate_json(stream.read())

    def refresh(self, now: datetime) -> bool:
        """Sign online roles again that are past half of their lifetime; True when something was signed."""
        due = self._due(self._metadata.load(), now)
        if not due:
            return False
        with self._changing(Signers(self._keys), now) as change:
            if "rollouts" in due:
                change.role("rollouts")
        return True

    # what devices are given -------------------------------------------------------------------------------

    def trust_set(self) -> bytes:
        """The framed trust set, at most 128 KB."""
        return build_trust_set(self._metadata, self._content)

    def root_metadata(self) -> bytes:
        """The newest root: the trust anchor of a device that is enrolled now."""
        return self._metadata.read(f"{self._metadata.load().root.version}.root.json")

    def version(self) -> int:
        """Grows with everything that is signed; cheap.

        Raises:
            DamagedRepositoryError: `timestamp.json` is missing or cannot be read.
        """
        path = self._metadata.folder / TIMESTAMP_FILE
        try:
            facts = path.stat()
        except OSError as error:
            raise DamagedRepositoryError(f"{path}: {error.strerror}") from error
        stamp = (facts.st_mtime_ns, facts.st_ino)
        if self._seen is None or self._seen[0] != stamp:
            data = self._metadata.read(TIMESTAMP_FILE)
            self._seen = (stamp, parse_metadata(Timestamp, data, TIMESTAMP_FILE).version)
        return self._seen[1]

    def open_blob(self, sha256: str) -> BinaryIO | None:
        """Whatever devices may pull, by digest: bundles, documents, metadata and their chunk indexes.

        Raises:
            OSError: it cannot be read now.
        """
        stream = self._content.open(sha256)
        if stream is not None:
            return stream
        try:
            data = self._pulled_by_hash().get(sha256)
        except DamagedRepositoryError as error:
            raise OSError(errno.EIO, str(error)) from error
        return in_memory(data) if data is not None else None

    def _pulled_by_hash(self) -> dict[str, bytes]:
        version = self.version()
        if self._by_digest is None or self._by_digest[0] != version:
            self._by_digest = (version, {sha256_hex(blob): blob for blob in self._metadata_blobs()})
        return self._by_digest[1]

    def _metadata_blobs(self) -> Iterator[bytes]:
        state = self._metadata.load()
        names = {f"{state.snapshot.version}.snapshot.json"}
        names |= {f"{meta.version}.{file}" for file, meta in state.snapshot.meta.items()}
        for name in names:
            data = self._metadata.read(name)
            yield data
            yield from index_levels(data)
        for target in state.roles["rollouts"].targets.values():
            stream = self._content.open(target.hashes["sha256"])
            if stream is not None:
                with stream:
                    yield from index_levels(stream.read())

    # writing ----------------------------------------------------------------------------------------------

    def _open_keys(self, new: Sequence[Publication], state: State, signers: Signers) -> None:
        """Ask for every passphrase that is going to be needed while nothing is locked or written."""
        for role in sorted({publication.role for publication in new}):
            if not state.delegated_keyids(role):
                signers.of_role("targets", state)
            if self._keys.exists(role) or state.delegated_keyids(role):
                signers.of_model(role, state)
        for role in ("snapshot", "timestamp"):
            signers.of_role(role, state)

    def _publish(self, new: Sequence[Publication], signers: Signers) -> None:
        if not new:
            return
        version = self.version()
        added: list[str] = []
        try:
            for publication in new:
                add_content(publication, self._content, added)
            with self._changing(signers) as change:
                for publication in unpublished(new, change.state):
                    sign_publication(publication, change)
        except Exception:
            if not self._became_real(new, version):
                for sha256 in added:
                    self._content.remove(sha256)
            raise

    def _became_real(self, new: Sequence[Publication], before: int) -> bool:
        """Whether a failure came after the moment at which a publication took effect."""
        if self.version() == before:
            return False
        roles = self._metadata.load().roles
        return any(str(one.path) in roles[one.role].targets for one in new if one.role in roles)

    def _due(self, state: State, now: datetime) -> list[str]:
        online: dict[str, Timestamp | Snapshot | Targets] = {
            "timestamp": state.timestamp,
            "snapshot": state.snapshot,
            "rollouts": state.roles["rollouts"],
        }
        return [
            role for role, signed in online.items() if signed.expires - now < self._lifetimes.of(role) / 2
        ]

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        """One publisher at a time; rollouts may change while it copies."""
        with writer_lock(self._folder / "publish.lock", _WAIT_S):
            with writer_lock(self._folder / "write.lock", _WAIT_S):
                self._content.sweep()
            yield

    @contextmanager
    def _changing(self, signers: Signers, now: datetime | None = None) -> Iterator[Transaction]:
        """The state, locked; committed at the end unless an exception leaves the block."""
        with writer_lock(self._folder / "write.lock", _WAIT_S):
            state, version = self._metadata.load(), self.version()
            change = Transaction(self._metadata, state, signers, self._lifetimes, now or self._clock())
            try:
                yield change
                change.commit()
            except BaseException:
                if self.version() == version:
                    signers.discard_fresh()
                raise
            signers.keep_fresh()
            try:
                prune(self._metadata, self._content, state, self._disk)
            except (EnvironmentFaultError, DamagedRepositoryError) as error:
                _log.warning("superseded files stay: %s", error)


def _role_of(model: str, state: State) -> str:
    if model_role(model) not in state.roles:
        raise NotFoundError(f"no release of {model} was ever published")
    return model_role(model)


def _check_version(version: str) -> None:
    try:
        _VERSION.validate_python(version)
    except ValidationError as error:
        raise BadInputError(f"{version!r} is no version: one to four numbers with dots") from error
