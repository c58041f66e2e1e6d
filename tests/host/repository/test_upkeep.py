"""Renewing roles and replacing keys, as devices see it: they follow the chain and refuse what was before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Timestamp

from packhorse_agent.contract.rollout import Assignments, RolloutsDocument
from packhorse_agent.contract.selection import assignment_key, assignment_shard
from packhorse_agent.contract.trustset import decode_trust_set
from packhorse_agent.store.errors import StorageFullError
from packhorse_agent.trust.errors import BadSignatureError
from packhorse_agent.trust.keeper import TrustKeeper
from packhorse_agent.trust.view import TrustedView
from packhorse_host.errors import ConfigError, NotFoundError, PackhorseError
from packhorse_host.repository import (
    KeyPlan,
    KeyRing,
    MissingKeyError,
    Repository,
    RoleStanding,
    Rotation,
    WrongPassphraseError,
    never_ask,
)
from packhorse_host.repository.standing import due, warnings
from tests.fakes.disk import FastFiles, FullFiles, Killed, MortalFiles
from tests.host.repository.bundles import make_bundle
from tests.host.repository.fleets import FLEET, SALT, Fleet, tree

MANIFEST = "bundles/detector/1.0/raspberry-pi-5/static_wi8_ai8/manifest.json"
ROLES = ("root", "targets", "model-detector", "rollouts", "snapshot", "timestamp")
PLAIN = Rotation(("root",), 3, 2, None)


class Device:
    """A device in the field: enrolled with the first root, it keeps what it accepts."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        folder.mkdir()
        self.fleet, self.folder = fleet, folder
        self.keeper = TrustKeeper(folder, fleet.anchor, FLEET, FastFiles())

    def take(self, files: Mapping[str, bytes] | None = None) -> TrustedView:
        offered = files or decode_trust_set(self.fleet.repository.trust_set())
        outcome = self.keeper.offer(offered, self.fleet.blob, self.fleet.clock())
        assert isinstance(outcome, TrustedView), outcome
        return outcome


@pytest.fixture
def published(fleet: Fleet, bundle: Path) -> Fleet:
    fleet.repository.publish([bundle])
    return fleet


@pytest.fixture
def device(published: Fleet, tmp_path: Path) -> Device:
    found = Device(published, tmp_path / "device")
    found.take()
    return found


def signers(fleet: Fleet, *names: str) -> list[CryptoSigner]:
    """The keys as they are now; opened, so that a thief has them later."""
    ring = KeyRing(fleet.folder / "keys", FastFiles())
    return [ring.signer(name, never_ask) for name in names]


def forged(signed: Any, *keys: CryptoSigner) -> bytes:
    metadata = Metadata(signed)
    for key in keys:
        metadata.sign(key, append=True)
    return metadata.to_bytes()


def standing(fleet: Fleet, role: str) -> RoleStanding:
    return next(one for one in fleet.repository.standings() if one.role == role)


def still_works(fleet: Fleet, folder: Path) -> None:
    """Whatever needs a key: an old device follows, online roles, a release, offline roles."""
    fleet.repository = fleet.open()
    device = Device(fleet, folder / "late")
    device.take()
    shard = Assignments(salt=SALT, tags={assignment_key(SALT, "pi-1"): ("canary",)})
    fleet.repository.set_rollouts(RolloutsDocument(fleet=FLEET), {assignment_shard("pi-1"): shard})
    fleet.repository.publish([make_bundle(folder / "later", version="2.0")])
    fleet.repository.renew(ROLES)
    view = device.take()
    assert view.tags("pi-1") == frozenset({"canary"})
    assert view.resolve(MANIFEST) is not None


@pytest.mark.parametrize("role", ROLES)
def test_a_renewed_role_holds_for_another_lifetime(published: Fleet, tmp_path: Path, role: str) -> None:
    device = Device(published, tmp_path / "device")
    device.take()
    before = standing(published, role)
    published.clock.advance(days=1)
    published.repository.renew([role])
    after = standing(published, role)
    assert after.version > before.version
    assert after.expires == before.expires + timedelta(days=1)
    device.take()
    still_works(published, tmp_path)


def test_expired_offline_roles_are_renewed_and_devices_install_again(device: Device) -> None:
    fleet = device.fleet
    fleet.clock.advance(days=800)
    with pytest.raises(PackhorseError):
        device.take()
    fleet.repository.renew(due(fleet.repository.standings(), fleet.clock(), timedelta(0)))
    fleet.repository.refresh(fleet.clock())
    assert not device.take().expired


def test_a_device_follows_a_rotated_root_and_refuses_the_old_keys(device: Device) -> None:
    fleet = device.fleet
    old_root, old_timestamp = signers(fleet, "root-1", "root-2", "root-3"), signers(fleet, "timestamp")
    fleet.repository.rotate(replace(PLAIN, roles=("root", "timestamp"), root_keys=5, root_threshold=3))
    device.take()
    files = decode_trust_set(fleet.repository.trust_set())
    root = Metadata[Root].from_bytes(files["2.root.json"]).signed
    assert (len(root.roles["root"].keyids), root.roles["root"].threshold) == (5, 3)

    root.version = 3
    with pytest.raises(BadSignatureError):
        device.take({**files, "3.root.json": forged(root, *old_root)})
    timestamp = Metadata[Timestamp].from_bytes(files["timestamp.json"]).signed
    timestamp.version += 1
    with pytest.raises(BadSignatureError):
        device.take({**files, "timestamp.json": forged(timestamp, *old_timestamp)})
    assert device.take().version == timestamp.version - 1


def test_the_new_root_is_signed_by_the_old_threshold_and_by_the_new_one(device: Device) -> None:
    fleet = device.fleet
    first = Metadata[Root].from_bytes(fleet.repository.root_metadata())
    fleet.repository.rotate(PLAIN)
    second = Metadata[Root].from_bytes(fleet.repository.root_metadata())
    first.signed.verify_delegate("root", second.signed_bytes, second.signatures)
    second.signed.verify_delegate("root", second.signed_bytes, second.signatures)
    assert not set(first.signed.roles["root"].keyids) & set(second.signed.roles["root"].keyids)


def test_a_root_with_too_few_signatures_moves_no_device(device: Device) -> None:
    fleet = device.fleet
    (old,) = signers(fleet, "root-1")
    fleet.repository.rotate(PLAIN)
    files = decode_trust_set(fleet.repository.trust_set())
    root = Metadata[Root].from_bytes(files["2.root.json"]).signed
    new = signers(fleet, "root-1", "root-2")
    with pytest.raises(BadSignatureError):
        device.take({**files, "2.root.json": forged(root, old, *new)})


@pytest.mark.parametrize("role", ROLES)
def test_each_key_can_be_replaced(published: Fleet, tmp_path: Path, role: str) -> None:
    device = Device(published, tmp_path / "device")
    device.take()
    name = "root-1" if role == "root" else role
    (before,) = signers(published, name)
    published.repository.rotate(replace(PLAIN, roles=(role,)))
    (after,) = signers(published, name)
    assert before.public_key.keyid != after.public_key.keyid
    device.take()
    still_works(published, tmp_path)
    assert not list((published.folder / "keys").glob("*.next.pem"))


@pytest.mark.parametrize("role", ["targets", "model-detector", "rollouts", "snapshot", "timestamp"])
def test_a_key_that_is_lost_is_replaced_too(published: Fleet, tmp_path: Path, role: str) -> None:
    (published.folder / f"keys/{role}.pem").unlink()
    published.repository.rotate(replace(PLAIN, roles=(role,)))
    still_works(published, tmp_path)


def test_everything_at_once_and_again(published: Fleet, tmp_path: Path) -> None:
    for _ in range(3):
        published.repository.rotate(replace(PLAIN, roles=ROLES))
    still_works(published, tmp_path)


def test_fewer_root_keys_leave_no_old_file_behind(published: Fleet) -> None:
    published.repository.rotate(Rotation(("root",), 1, 1, None))
    assert [path.name for path in (published.folder / "keys").glob("root-*")] == ["root-1.pem"]
    assert published.repository.root_plan() == (1, 1)


def test_a_writer_that_opened_its_keys_before_they_were_replaced(published: Fleet) -> None:
    """The controller may sign at any moment; what it has opened is looked at again under the lock."""
    again = published.open()
    assert again.version() == published.repository.version()
    published.repository.rotate(replace(PLAIN, roles=("snapshot", "timestamp", "rollouts")))
    published.clock.advance(days=3)
    assert again.refresh(published.clock())


def test_root_keys_may_lie_elsewhere(published: Fleet, tmp_path: Path) -> None:
    homes = [tmp_path / "alice", tmp_path / "bob", tmp_path / "carol"]
    for number, home in enumerate(homes, start=1):
        home.mkdir()
        (published.folder / f"keys/root-{number}.pem").rename(home / f"root-{number}.pem")
    before = tree(published.folder)
    with pytest.raises(MissingKeyError, match="2 root keys must sign and 0 of them are here"):
        published.repository.rotate(PLAIN)
    assert tree(published.folder) == before
    for few, enough in ((homes[:1], False), (homes[1:], True)):
        keys = KeyRing(published.folder / "keys", FastFiles(), few)
        repository = Repository(published.folder / "repository", keys, FLEET, published.clock)
        if enough:
            repository.rotate(PLAIN)
        else:
            with pytest.raises(MissingKeyError, match="1 of them"):
                repository.rotate(PLAIN)
    assert all(home.is_dir() and len(list(home.iterdir())) == 1 for home in homes)
    still_works(published, tmp_path)


def test_new_offline_keys_are_encrypted_and_online_ones_are_not(tmp_path: Path, bundle: Path) -> None:
    fleet = Fleet(tmp_path / "secret", KeyPlan(passphrase="old horse"))
    fleet.repository.publish([bundle], lambda _: "old horse")
    fleet.repository.rotate(Rotation(ROLES, 3, 2, "new horse"), lambda _: "old horse")
    for path in (fleet.folder / "keys").iterdir():
        online = path.stem in ("snapshot", "timestamp", "rollouts")
        assert (b"ENCRYPTED" in path.read_bytes()) is not online, path.name
        assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(WrongPassphraseError):
        fleet.repository.renew(["targets"], lambda _: "old horse")
    fleet.repository.renew(["root", "targets"], lambda _: "new horse")


@pytest.mark.parametrize("role", ["root", "targets", "model-detector"])
def test_a_wrong_passphrase_changes_nothing(tmp_path: Path, bundle: Path, role: str) -> None:
    fleet = Fleet(tmp_path / "secret", KeyPlan(passphrase="horse"))
    fleet.repository.publish([bundle], lambda _: "horse")
    before = tree(fleet.folder)
    with pytest.raises(WrongPassphraseError):
        fleet.repository.renew([role], lambda _: "wrong")
    with pytest.raises(WrongPassphraseError):
        fleet.repository.rotate(replace(PLAIN, roles=(role,)), lambda _: "wrong")
    assert tree(fleet.folder) == before


@pytest.mark.parametrize("role", ["model-nosuch", "", "../targets", "roots"])
def test_a_role_that_is_not_there(published: Fleet, role: str) -> None:
    with pytest.raises(NotFoundError, match="model-detector"):
        published.repository.renew([role])
    with pytest.raises(NotFoundError):
        published.repository.rotate(replace(PLAIN, roles=(role,)))


@pytest.mark.parametrize(("keys", "threshold"), [(0, 0), (2, 3), (17, 2)])
def test_root_keys_that_cannot_be(keys: int, threshold: int) -> None:
    with pytest.raises(ConfigError):
        Rotation(("root",), keys, threshold, None)


@pytest.mark.parametrize("free", range(0, 12, 3))
def test_a_full_disk_changes_nothing(published: Fleet, free: int) -> None:
    before = tree(published.folder / "keys")
    version = published.repository.version()
    with pytest.raises(StorageFullError):
        published.open(FullFiles(free)).rotate(replace(PLAIN, roles=ROLES))
    assert tree(published.folder / "keys") == before
    assert published.repository.version() == version


def test_a_kill_at_any_moment_leaves_a_fleet_that_works(tmp_path: Path, bundle: Path) -> None:
    """Old keys or new ones, never neither; and the next try goes through."""
    dies_at, outcomes = 1, set[int]()
    while True:
        folder = tmp_path / str(dies_at)
        fleet = Fleet(folder / "fleet")
        fleet.repository.publish([bundle])
        try:
            fleet.open(MortalFiles(dies_at)).rotate(replace(PLAIN, roles=ROLES))
        except Killed:
            fleet.repository = fleet.open()
            outcomes.add(standing(fleet, "root").version)
            if dies_at % 2:
                fleet.repository.rotate(replace(PLAIN, roles=ROLES))
            still_works(fleet, folder)
            dies_at += 3
            continue
        break
    assert outcomes == {1, 2}


def test_an_unfinished_root_is_given_to_nobody(published: Fleet, tmp_path: Path) -> None:
    metadata = published.folder / "repository/metadata"
    (metadata / "2.root.json").write_bytes(b"half of it")
    assert published.repository.root_metadata() == published.anchor
    assert "2.root.json" not in decode_trust_set(published.repository.trust_set())
    published.repository.rotate(PLAIN)
    assert standing(published, "root").version == 2
    still_works(published, tmp_path)


def test_a_repository_from_before_roots_were_named_goes_on(published: Fleet, tmp_path: Path) -> None:
    path = published.folder / "repository/metadata/timestamp.json"
    timestamp = Metadata[Timestamp].from_bytes(path.read_bytes()).signed
    timestamp.unrecognized_fields.clear()
    path.write_bytes(forged(timestamp, *signers(published, "timestamp")))
    published.repository.rotate(PLAIN)
    still_works(published, tmp_path)


def test_what_expires_is_said_in_time(published: Fleet) -> None:
    def said() -> dict[str, str]:
        return warnings(published.repository.standings(), published.clock())

    assert said() == {}
    published.clock.advance(days=336)
    assert sorted(said()) == ["model-detector", "rollouts", "snapshot", "targets", "timestamp"]
    assert "targets expires in 29 days" in said()["targets"]
    assert "`packhorse trust renew targets`" in said()["targets"]
    assert "packhorse serve" in said()["timestamp"]
    published.repository.refresh(published.clock())
    assert sorted(said()) == ["model-detector", "targets"]
    published.clock.advance(days=30)
    assert "targets expired" in said()["targets"]
    published.repository.renew(["targets", "model-detector"])
    published.repository.refresh(published.clock())
    assert said() == {}
