"""A repository in a folder with a clock that a test moves, and the device that looks at it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from packhorse_agent.contract.rollout import Assignments
from packhorse_agent.contract.selection import assignment_key, assignment_shard
from packhorse_agent.contract.trustset import decode_trust_set
from packhorse_agent.store.files import Files
from packhorse_agent.trust.keeper import TrustKeeper
from packhorse_agent.trust.ports import NeedsBlobs
from packhorse_agent.trust.view import TrustedView
from packhorse_host.repository import KeyPlan, KeyRing, Repository
from tests.fakes.disk import FastFiles

START = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)
FLEET = "farm"
SALT = "5" * 32


@dataclass
class Clock:
    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **delta: float) -> None:
        self.now += timedelta(**delta)


@dataclass
class Fleet:
    """A founded repository; `publish` and the like are on `repository`."""

    folder: Path
    plan: KeyPlan = field(default_factory=KeyPlan)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        (self.folder / "keys").mkdir(parents=True)
        self.repository = self.open()
        self.repository.found(self.plan)
        self.anchor = self.repository.root_metadata()

    def open(self, disk: Files | None = None) -> Repository:
        disk = disk or FastFiles()
        keys = KeyRing(self.folder / "keys", disk)
        return Repository(self.folder / "repository", keys, FLEET, self.clock, disk=disk)

    def blob(self, sha256: str) -> bytes | None:
        stream = self.repository.open_blob(sha256)
        if stream is None:
            return None
        with stream:
            return stream.read()

    def view(self, folder: Path) -> TrustedView:
        """What a device in `folder` makes of the repository now; pulls what the trust set lacks."""
        keeper = TrustKeeper(folder, self.anchor, FLEET, FastFiles())
        outcome = keeper.offer(decode_trust_set(self.repository.trust_set()), self.blob, self.clock())
        assert not isinstance(outcome, NeedsBlobs), outcome.reason
        return outcome


def tree(folder: Path) -> dict[str, bytes]:
    """Every file, but the locks: they hold nothing."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assignments(*device_ids: str) -> dict[int, Assignments]:
    """The tag `canary` for each device."""
    shards: dict[int, dict[str, tuple[str, ...]]] = {}
    for device_id in device_ids:
        shards.setdefault(assignment_shard(device_id), {})[assignment_key(SALT, device_id)] = ("canary",)
    return {shard: Assignments(salt=SALT, tags=tags) for shard, tags in shards.items()}
