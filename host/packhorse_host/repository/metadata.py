"""Signed metadata on the disk: versioned files that never change, and `timestamp.json`, which is replaced.

Writing `timestamp.json` is the moment at which a change becomes real; everything else is written before it.
A version number that a killed writer has used is never used again. Roots are the exception, since their
numbers must have no gap: the timestamp says which root is the current one, and nobody is given a later file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.limits import METADATA_MAX_BYTES
from packhorse_agent.store.durable import write_durable
from packhorse_agent.store.files import OS_FILES, Files
from packhorse_agent.trust.signed import CHUNK_INDEX_FIELD
from packhorse_host.repository.content import index_digests
from packhorse_host.repository.errors import DamagedRepositoryError, TooLargeError

TIMESTAMP_FILE = "timestamp.json"
ROOT_VERSION_FIELD = "packhorse_root_version"
"""In the timestamp: the current root. Devices do not read it, they follow the chain."""

VERSIONS_KEPT = 4
"""Of snapshot and rollouts: a device may still be pulling the ones before."""

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)

_VERSIONED = re.compile(r"([0-9]+)\.(.+)\.json")


@dataclass(frozen=True)
class Lifetimes:
    """How long signatures hold. Online roles are signed again at half of it."""

    root: timedelta = timedelta(days=730)
    targets: timedelta = timedelta(days=365)
    """Also of the models' roles."""
    snapshot: timedelta = timedelta(days=7)
    timestamp: timedelta = timedelta(days=2)
    rollouts: timedelta = timedelta(days=4)

    def of(self, role: str) -> timedelta:
        """The lifetime of a role by its name."""
        online = {"snapshot": self.snapshot, "timestamp": self.timestamp, "rollouts": self.rollouts}
        return self.root if role == "root" else online.get(role, self.targets)


@dataclass(frozen=True)
class State:
    """All current metadata, as it was read."""

    root: Root
    timestamp: Timestamp
    timestamp_bytes: bytes
    snapshot: Snapshot
    roles: Mapping[str, Targets]
    """`targets`, `rollouts` and `model-…`."""

    def delegated_keyids(self, role: str) -> list[str]:
        """Ids of the keys that may sign a role; empty for a role that is not delegated."""
        if role in self.root.roles:
            return list(self.root.roles[role].keyids)
        delegations = self.roles["targets"].delegations
        found = delegations.roles.get(role) if delegations and delegations.roles else None
        return list(found.keyids) if found else []


class MetadataFolder:
    """Reads and writes `metadata/`."""

    def __init__(self, folder: Path, disk: Files = OS_FILES) -> None:
        self.folder = folder
        self._disk = disk

    def load(self) -> State:
        """Read what `timestamp.json` leads to.

        Raises:
            DamagedRepositoryError: a file is missing or cannot be read.
        """
        timestamp_bytes = self.read(TIMESTAMP_FILE)
        timestamp = parse_metadata(Timestamp, timestamp_bytes, TIMESTAMP_FILE)
        snapshot_file = f"{timestamp.snapshot_meta.version}.snapshot.json"
        snapshot = parse_metadata(Snapshot, self.read(snapshot_file), snapshot_file)
        roles = {
            file.removesuffix(".json"): parse_metadata(Targets, self.read(f"{meta.version}.{file}"), file)
            for file, meta in snapshot.meta.items()
        }
        root_file = f"{self._root_version(timestamp)}.root.json"
        root = parse_metadata(Root, self.read(root_file), root_file)
        return State(root, timestamp, timestamp_bytes, snapshot, roles)

    def read(self, name: str) -> bytes:
        """The bytes of a metadata file.

        Raises:
            DamagedRepositoryError: it is missing or cannot be read.
        """
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise DamagedRepositoryError(f"{self.folder / name}: {error.strerror}") from error

    def root_chain(self, current: int) -> list[int]:
        """Versions of the root up to the current one, oldest first."""
        return sorted(version for version in self._versions().get("root", ()) if version <= current)

    def _root_version(self, timestamp: Timestamp) -> int:
        stated = timestamp.unrecognized_fields.get(ROOT_VERSION_FIELD)
        if isinstance(stated, int):
            return stated
        versions = self._versions().get("root", ())
        if not versions:
            raise DamagedRepositoryError(f"{self.folder} holds no root metadata")
        return max(versions)

    def next_version(self, role: str) -> int:
        """A number that no file of this role has; the current one is always here."""
        return max(self._versions().get(role, [0])) + 1

    def write_versioned(self, role: str, signed: S, signers: Iterable[CryptoSigner]) -> MetaFile:
        """Sign and write; returns what the snapshot or timestamp has to say of the file.

        Raises:
            TooLargeError: more than `METADATA_MAX_BYTES`.
            StorageFullError, StorageFaultError: it could not be written.
        """
        data = sign(signed, signers)
        if len(data) > METADATA_MAX_BYTES:
            text = f"the metadata of {role} would have {len(data)} bytes, {METADATA_MAX_BYTES} is the most"
            raise TooLargeError(text)
        write_durable(self.folder / f"{signed.version}.{role}.json", data, files=self._disk)
        index = index_digests(data)
        extra = {CHUNK_INDEX_FIELD: list(index)} if index else {}
        return MetaFile(signed.version, len(data), {"sha256": sha256_hex(data)}, extra)

    def write_timestamp(self, timestamp: Timestamp, signer: CryptoSigner) -> None:
        """Make everything that was written before real."""
        write_durable(self.folder / TIMESTAMP_FILE, sign(timestamp, [signer]), files=self._disk)

    def superseded(self, role: str, current: int) -> list[Path]:
        """Files of a role that are older than the newest few before `current`."""
        old = sorted(version for version in self._versions().get(role, ()) if version < current)
        return [self.folder / f"{version}.{role}.json" for version in old[: -(VERSIONS_KEPT - 1)]]

    def _versions(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for name in self._disk.entries(self.folder):
            if match := _VERSIONED.fullmatch(name):
                found.setdefault(match[2], []).append(int(match[1]))
        return found


def sign(signed: S, signers: Iterable[CryptoSigner]) -> bytes:
    """The file of a signed part."""
    metadata = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


def describe_target(path: str, content: bytes) -> TargetFile:
    """What a role signs for a small target; also the chunk index where it has more than one chunk."""
    index = index_digests(content)
    extra = {"custom": {CHUNK_INDEX_FIELD: list(index)}} if index else {}
    return TargetFile(len(content), {"sha256": sha256_hex(content)}, path, extra)


def tuf_date(at: datetime) -> str:
    """A date as TUF writes it."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_metadata(kind: type[S], data: bytes, name: str) -> S:
    """The signed part of a metadata file.

    Raises:
        DamagedRepositoryError: it cannot be read, or it is of another kind.
    """
    try:
        signed = Metadata.from_bytes(data).signed
    except DeserializationError as error:
        raise DamagedRepositoryError(f"{name} cannot be read: {error}") from error
    if not isinstance(signed, kind):
        raise DamagedRepositoryError(f"{name} is {signed.type} metadata")
    return signed
