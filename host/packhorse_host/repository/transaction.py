"""One change of the metadata: changed roles, then the snapshot, then the timestamp."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Root, Snapshot, Targets, Timestamp

from packhorse_agent.store.files import Files
from packhorse_agent.trust.release import ISSUED_AT_FIELD
from packhorse_host.repository.content import ContentFolder
from packhorse_host.repository.metadata import (
    ROOT_VERSION_FIELD,
    Lifetimes,
    MetadataFolder,
    State,
    parse_metadata,
    tuf_date,
)
from packhorse_host.repository.signers import Signers


@dataclass
class Transaction:
    """Collects changed roles of `state`; `commit` makes them real, all or none."""

    metadata: MetadataFolder
    state: State
    signers: Signers
    lifetimes: Lifetimes
    now: datetime
    _changed: dict[str, Targets] = field(default_factory=dict)
    _old_root: Root | None = None

    def root(self) -> Root:
        """The root, which is going to change; it will be signed by the old threshold and by the new one."""
        if self._old_root is None:
            self._old_root = deepcopy(self.state.root)
        return self.state.root

    def role(self, name: str) -> Targets:
        """A role that is going to change, made when it is new; the key has to be at hand."""
        if name not in self._changed:
            self._changed[name] = self.state.roles.get(name) or Targets(version=1)
        return self._changed[name]

    def delegate(self, name: str, paths: Iterable[str]) -> None:
        """Let a new role answer for target paths, terminating, with its own key."""
        targets = self.role("targets")
        delegations = targets.delegations or Delegations({}, {})
        delegations.roles = {
            **(delegations.roles or {}),
            name: DelegatedRole(name, [], 1, terminating=True, paths=list(paths)),
        }
        targets.delegations = delegations
        targets.add_key(self.signers.of_model(name, self.state).public_key, name)

    def commit(self) -> None:
        """Sign and write; `timestamp.json` last.

        Raises:
            TooLargeError: a role would be larger than devices take; nothing was changed.
            MissingKeyError, WrongPassphraseError: nothing was changed.
            StorageFullError, StorageFaultError: nothing was changed, or all was.
        """
        root_signers = self._root_signers()
        opened = {name: self.signers.of_model(name, self.state) for name in self._changed}
        snapshot_signer = self.signers.of_role("snapshot", self.state)
        timestamp_signer = self.signers.of_role("timestamp", self.state)
        if root_signers:
            self._write_root(root_signers)
        snapshot = self.state.snapshot
        for name, role in self._changed.items():
            self._renew(name, role)
            if name == "targets":
                role.unrecognized_fields[ISSUED_AT_FIELD] = tuf_date(self.now)
            snapshot.meta[f"{name}.json"] = self.metadata.write_versioned(name, role, [opened[name]])
        self._renew("snapshot", snapshot)
        meta = self.metadata.write_versioned("snapshot", snapshot, [snapshot_signer])
        timestamp = Timestamp(
            version=self.state.timestamp.version + 1,
            expires=self._expires("timestamp"),
            snapshot_meta=meta,
            unrecognized_fields={ROOT_VERSION_FIELD: self.state.root.version},
        )
        self.metadata.write_timestamp(timestamp, timestamp_signer)

    def _root_signers(self) -> list[CryptoSigner]:
        if self._old_root is None:
            return []
        roots = (self._old_root, self.state.root)
        found = [one for root in roots for one in self.signers.of_root(root.roles["root"])]
        return list({signer.public_key.keyid: signer for signer in found}.values())

    def _write_root(self, signers: list[CryptoSigner]) -> None:
        # No gap is allowed in the chain: a file that a killed writer left was given to nobody, and gives way.
        root = self.state.root
        root.version += 1
        root.expires = self._expires("root")
        root.unrecognized_fields[ISSUED_AT_FIELD] = tuf_date(self.now)
        self.metadata.write_versioned("root", root, signers)

    def _renew(self, name: str, signed: Targets | Snapshot) -> None:
        signed.version = self.metadata.next_version(name)
        signed.expires = self._expires(name)

    def _expires(self, role: str) -> datetime:
        return (self.now + self.lifetimes.of(role)).replace(microsecond=0)


def prune(metadata: MetadataFolder, content: ContentFolder, state: State, disk: Files) -> None:
    """Remove superseded snapshots, rollouts roles, and documents that no kept role names."""
    for old in metadata.superseded("snapshot", state.snapshot.version):
        disk.remove(old)
    old_roles = metadata.superseded("rollouts", state.roles["rollouts"].version)
    gone = _documents(old_roles)
    kept = set(metadata.folder.glob("*.rollouts.json")) - set(old_roles)
    for sha256 in gone - _documents(kept):
        content.remove(sha256)
    for old in old_roles:
        disk.remove(old)


def _documents(roles: Iterable[Path]) -> set[str]:
    found: set[str] = set()
    for path in roles:
        role = parse_metadata(Targets, path.read_bytes(), path.name)
        found.update(target.hashes["sha256"] for target in role.targets.values())
    return found
