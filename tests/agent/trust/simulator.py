"""A fleet's TUF repository in memory, made valid, so that a test can break it in one place.

It shares no code with the real repository: python-tuf's metadata API only.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TypeVar

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.chunks import build_index
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_agent.contract.rollout import Assignments, RolloutsDocument, assignments_target
from packhorse_agent.contract.selection import assignment_key, assignment_shard

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)
FLEET = "farm"
SALT = "0" * 32
MANIFEST = b'{"a": "manifest"}'
MANIFEST_PATH = "bundles/detector/1.2/raspberry-pi-5/static_wi8_ai8/manifest.json"
ROLLOUTS = "rollouts/rollouts.json"


S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def describe(path: str, data: bytes, with_index: bool = True) -> TargetFile:
    unrecognized = {"custom": {"chunk_index": index_of(data)}} if with_index and index_of(data) else {}
    return TargetFile(len(data), {"sha256": sha256(data)}, path, unrecognized)


def index_of(data: bytes) -> list[str]:
    chunks = [data[at : at + CHUNK_SIZE_BYTES] for at in range(0, len(data), CHUNK_SIZE_BYTES)]
    return [sha256(level) for level in build_index(hashlib.sha256(chunk).digest() for chunk in chunks)]


@dataclass
class FleetSimulator:
    """Change what you like, then `publish()` and hand `files()` to a keeper."""

    now: datetime = NOW
    fleet: str = FLEET
    signers: dict[str, list[CryptoSigner]] = field(default_factory=dict)
    roots: list[bytes] = field(default_factory=list)
    documents: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rollouts_document: RolloutsDocument | None = None

    def __post_init__(self) -> None:
        for role, count in {"root": 3, "targets": 1, "snapshot": 1, "timestamp": 1}.items():
            self.signers[role] = [CryptoSigner.generate_ed25519() for _ in range(count)]
        self.rollouts_document = self.rollouts_document or RolloutsDocument(fleet=self.fleet)
        self.root = Root(expires=self.at(days=365), consistent_snapshot=True)
        self.root.unrecognized_fields["packhorse_issued_at"] = self.at(days=-10).strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        )
        for role in ("root", "targets", "snapshot", "timestamp"):
            for signer in self.signers[role]:
                self.root.add_key(signer.public_key, role)
        self.root.roles["root"].threshold = 2
        self.timestamp = Timestamp(version=0 + 1, expires=self.at(days=1))
        self.snapshot = Snapshot(version=1, expires=self.at(days=7))
        self.targets = Targets(version=1, expires=self.at(days=365), delegations=Delegations({}, {}))
        self.roles: dict[str, Targets] = {}
        self.delegate("rollouts", ["rollouts/*", "assignments/*"], days=3)
        self.delegate("model-detector", ["bundles/detector/*/*/*/manifest.json"], days=365)
        self.roles["model-detector"].targets[MANIFEST_PATH] = describe(MANIFEST_PATH, MANIFEST)
        self.sign_root()
        self.versions = {"targets": 1, "rollouts": 1, "model-detector": 1}
        self.signed: dict[str, bytes] = {}
        self.sign_all()

    def at(self, **delta: float) -> datetime:
        return self.now + timedelta(**delta)

    def delegate(self, name: str, paths: list[str], days: float, terminating: bool = True) -> None:
        signer = CryptoSigner.generate_ed25519()
        self.signers[name] = [signer]
        assert self.targets.delegations is not None
        assert self.targets.delegations.roles is not None
        self.targets.delegations.roles[name] = DelegatedRole(name, [], 1, terminating, paths=paths)
        self.targets.add_key(signer.public_key, name)
        self.roles[name] = Targets(version=1, expires=self.at(days=days))

    # signing ----------------------------------------------------------------------------------------------

    def sign(self, role: str, signed: S, signers: Iterable[CryptoSigner] | None = None) -> bytes:
        metadata = Metadata(copy.deepcopy(signed))
        for signer in self.signers[role] if signers is None else signers:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def sign_root(self, signers: Iterable[CryptoSigner] | None = None) -> None:
        self.roots.append(self.sign("root", self.root, signers))

    def rotate_root(self, signers: Iterable[CryptoSigner] | None = None) -> None:
        """Publish the changed `root` as the next version; by default old and new root keys sign."""
        old = list(self.signers["root"])
        self.root.version += 1
        self.sign_root(old if signers is None else signers)

    def replace_key(self, role: str) -> None:
        """A new key for an online role, in a new root or new targets."""
        new = CryptoSigner.generate_ed25519()
        owner: Root | Targets = self.root if role in ("snapshot", "timestamp", "targets") else self.targets
        for old in self.signers[role]:
            owner.revoke_key(old.public_key.keyid, role)
        owner.add_key(new.public_key, role)
        self.signers[role] = [new]

    def sign_all(self) -> None:
        """Write documents and sign every role but root with the versions that they have now."""
        assert self.rollouts_document is not None
        self.documents = {ROLLOUTS: canonical_json(self.rollouts_document)}
        for device_id, tags in self.tags.items():
            path = assignments_target(assignment_shard(device_id))
            content = Assignments(salt=SALT, tags={assignment_key(SALT, device_id): tags})
            self.documents[path] = canonical_json(content)
        self.roles["rollouts"].targets = {p: describe(p, d) for p, d in self.documents.items()}
        for name, role in {"targets": self.targets, **self.roles}.items():
            self.signed[name] = self.sign(name, role)
            self.snapshot.meta[f"{name}.json"] = self.meta(role.version, self.signed[name])
        self.sign_snapshot()

    def sign_snapshot(self) -> None:
        self.signed["snapshot"] = self.sign("snapshot", self.snapshot)
        self.timestamp.snapshot_meta = self.meta(self.snapshot.version, self.signed["snapshot"])
        self.sign_timestamp()

    def sign_timestamp(self) -> None:
        self.signed["timestamp"] = self.sign("timestamp", self.timestamp)

    def meta(self, version: int, data: bytes) -> MetaFile:
        index = index_of(data)
        extra = {"chunk_index": index} if index else {}
        return MetaFile(version, len(data), {"sha256": sha256(data)}, extra)

    def publish(self, *changed: str) -> dict[str, bytes]:
        """Raise the versions of `changed` roles, of snapshot and timestamp, sign, and return the files."""
        for name in changed:
            self.role(name).version += 1
        self.snapshot.version += 1
        self.timestamp.version += 1
        self.sign_all()
        return self.files()

    def role(self, name: str) -> Targets:
        return self.targets if name == "targets" else self.roles[name]

    # what is served ---------------------------------------------------------------------------------------

    def files(self, *without: str) -> dict[str, bytes]:
        """The trust set; `without` names files that shall be pulled by hash."""
        files = {f"{number}.root.json": root for number, root in enumerate(self.roots, start=1)}
        files["timestamp.json"] = self.signed["timestamp"]
        files[f"{self.snapshot.version}.snapshot.json"] = self.signed["snapshot"]
        for name in ("targets", *self.roles):
            files[f"{self.role(name).version}.{name}.json"] = self.signed[name]
        files |= {f"targets/{path}": data for path, data in self.documents.items()}
        return {name: data for name, data in files.items() if not any(part in name for part in without)}

    def blobs(self) -> dict[str, bytes]:
        """Everything by digest."""
        return {sha256(data): data for data in (*self.signed.values(), *self.documents.values())}


def no_blobs(_sha256: str) -> bytes | None:
    return None
