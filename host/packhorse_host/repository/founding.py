"""The first metadata of a fleet, and the keys that sign it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Root, Snapshot, Targets, Timestamp

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.rollout import ROLLOUTS_TARGET, RolloutsDocument
from packhorse_agent.trust.release import ISSUED_AT_FIELD
from packhorse_host.errors import ConfigError
from packhorse_host.repository.content import ContentFolder
from packhorse_host.repository.keyring import ONLINE_KEYS, KeyRing
from packhorse_host.repository.metadata import (
    ROOT_VERSION_FIELD,
    Lifetimes,
    MetadataFolder,
    describe_target,
    tuf_date,
)

ROLLOUTS_PATHS = ("rollouts/*", "assignments/*")
ROOT_KEYS_MAX = 16


@dataclass(frozen=True)
class KeyPlan:
    """How many root keys there are, how many of them must sign, and whether offline keys are encrypted.

    Raises:
        ConfigError: the numbers do not fit, or the passphrase is empty.
    """

    root_keys: int = 3
    root_threshold: int = 2
    passphrase: str | None = None
    """None: offline keys are not encrypted."""

    def __post_init__(self) -> None:
        check_root_plan(self.root_keys, self.root_threshold)
        if self.passphrase == "":
            raise ConfigError("the passphrase is empty; `--unencrypted-keys` says so openly")


def check_root_plan(keys: int, threshold: int) -> None:
    """See that so many root keys can be, and so many of them sign.

    Raises:
        ConfigError: the numbers do not fit.
    """
    if not 1 <= threshold <= keys <= ROOT_KEYS_MAX:
        text = f"{threshold} of {keys} root keys cannot be: 1 to {ROOT_KEYS_MAX} keys, "
        raise ConfigError(text + "and a threshold from 1 to their number")


@dataclass(frozen=True)
class _Keys:
    root: list[CryptoSigner]
    targets: CryptoSigner
    snapshot: CryptoSigner
    timestamp: CryptoSigner
    rollouts: CryptoSigner


def found_repository(
    metadata: MetadataFolder,
    content: ContentFolder,
    keyring: KeyRing,
    plan: KeyPlan,
    fleet: str,
    lifetimes: Lifetimes,
    now: datetime,
) -> None:
    """Make keys and version 1 of every role; an empty rollouts document is published with them.

    Raises:
        StorageFullError, StorageFaultError: the disk does not take it.
    """
    keys = _make_keys(keyring, plan)
    expires = {
        role: (now + lifetimes.of(role)).replace(microsecond=0)
        for role in ("root", "targets", "snapshot", "timestamp", "rollouts")
    }
    issued = {ISSUED_AT_FIELD: tuf_date(now)}
    root = Root(expires=expires["root"], consistent_snapshot=True, unrecognized_fields=dict(issued))
    for role, signers in _signers_by_role(keys).items():
        for signer in signers:
            root.add_key(signer.public_key, role)
    root.roles["root"].threshold = plan.root_threshold
    delegated = DelegatedRole("rollouts", [], 1, terminating=True, paths=list(ROLLOUTS_PATHS))
    targets = Targets(
        expires=expires["targets"],
        delegations=Delegations({}, {"rollouts": delegated}),
        unrecognized_fields=dict(issued),
    )
    targets.add_key(keys.rollouts.public_key, "rollouts")
    document = canonical_json(RolloutsDocument(fleet=fleet))
    content.add_bytes(document)
    rollouts = Targets(expires=expires["rollouts"])
    rollouts.targets[ROLLOUTS_TARGET] = describe_target(ROLLOUTS_TARGET, document)
    metadata.write_versioned("root", root, keys.root)
    meta = {
        "targets.json": metadata.write_versioned("targets", targets, [keys.targets]),
        "rollouts.json": metadata.write_versioned("rollouts", rollouts, [keys.rollouts]),
    }
    snapshot = Snapshot(expires=expires["snapshot"], meta=meta)
    snapshot_meta = metadata.write_versioned("snapshot", snapshot, [keys.snapshot])
    timestamp = Timestamp(
        expires=expires["timestamp"],
        snapshot_meta=snapshot_meta,
        unrecognized_fields={ROOT_VERSION_FIELD: root.version},
    )
    metadata.write_timestamp(timestamp, keys.timestamp)


def _make_keys(keyring: KeyRing, plan: KeyPlan) -> _Keys:
    root = [keyring.create(f"root-{number}", plan.passphrase) for number in range(1, plan.root_keys + 1)]
    targets = keyring.create("targets", plan.passphrase)
    snapshot, timestamp, rollouts = (keyring.create(name, None) for name in ONLINE_KEYS)
    return _Keys(root, targets, snapshot, timestamp, rollouts)


def _signers_by_role(keys: _Keys) -> dict[str, list[CryptoSigner]]:
    return {
        "root": keys.root,
        "targets": [keys.targets],
        "snapshot": [keys.snapshot],
        "timestamp": [keys.timestamp],
    }
