"""Keys: which are encrypted, which are needed, and what a wrong one changes: nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse_agent.contract.rollout import Assignments, RolloutsDocument
from packhorse_agent.contract.selection import assignment_key, assignment_shard
from packhorse_host.errors import ConfigError
from packhorse_host.repository import (
    KeyPlan,
    MissingKeyError,
    WrongPassphraseError,
)
from tests.host.repository.bundles import make_bundle
from tests.host.repository.fleets import FLEET, SALT, Fleet, tree


def test_offline_keys_are_encrypted_and_online_keys_private(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet", KeyPlan(passphrase="correct horse"))
    for path in (fleet.folder / "keys").iterdir():
        encrypted = b"ENCRYPTED" in path.read_bytes()
        assert encrypted == (path.stem not in ("snapshot", "timestamp", "rollouts")), path.name
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_passphrase_publishes_and_encrypts_the_models_key(tmp_path: Path, bundle: Path) -> None:
    fleet = Fleet(tmp_path / "fleet", KeyPlan(passphrase="correct horse"))
    fleet.repository.publish([bundle], lambda _key: "correct horse")
    assert b"ENCRYPTED" in (fleet.folder / "keys/model-detector.pem").read_bytes()
    with pytest.raises(WrongPassphraseError):
        fleet.repository.publish([make_bundle(tmp_path / "2", version="2.0")], lambda _key: "wrong")
    fleet.repository.publish([make_bundle(tmp_path / "3", version="3.0")], lambda _key: "correct horse")


@pytest.mark.parametrize("passphrase", ["wrong", "", "correct horse "])
def test_a_wrong_passphrase_changes_nothing(tmp_path: Path, bundle: Path, passphrase: str) -> None:
    fleet = Fleet(tmp_path / "fleet", KeyPlan(passphrase="correct horse"))
    before = tree(fleet.folder)
    with pytest.raises(WrongPassphraseError, match="targets"):
        fleet.repository.publish([bundle], lambda _key: passphrase)
    with pytest.raises(WrongPassphraseError, match="no passphrase was given"):
        fleet.repository.publish([bundle])
    assert tree(fleet.folder) == before


def test_rollouts_need_no_passphrase(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet", KeyPlan(passphrase="correct horse"))
    shard = Assignments(salt=SALT, tags={assignment_key(SALT, "pi-1"): ("canary",)})
    fleet.repository.set_rollouts(RolloutsDocument(fleet=FLEET), {assignment_shard("pi-1"): shard})
    assert fleet.view(tmp_path / "device").tags("pi-1") == frozenset({"canary"})


@pytest.mark.parametrize("key", ["targets", "snapshot", "timestamp"])
def test_a_missing_key_changes_nothing(fleet: Fleet, bundle: Path, key: str) -> None:
    (fleet.folder / f"keys/{key}.pem").unlink()
    before = tree(fleet.folder)
    with pytest.raises(MissingKeyError, match=key):
        fleet.repository.publish([bundle])
    assert tree(fleet.folder) == before


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAA==\n"])
def test_a_damaged_key_is_named(fleet: Fleet, bundle: Path, content: bytes) -> None:
    (fleet.folder / "keys/targets.pem").write_bytes(content)
    with pytest.raises(MissingKeyError, match=r"targets\.pem"):
        fleet.repository.publish([bundle])


def test_the_key_of_another_fleet_is_refused(fleet: Fleet, bundle: Path, tmp_path: Path) -> None:
    other = Fleet(tmp_path / "other")
    key = "keys/targets.pem"
    (fleet.folder / key).write_bytes((other.folder / key).read_bytes())
    with pytest.raises(MissingKeyError, match="another key"):
        fleet.repository.publish([bundle])


@pytest.mark.parametrize(("keys", "threshold"), [(0, 0), (2, 3), (3, 0), (17, 2), (-1, -1)])
def test_root_keys_that_cannot_be(keys: int, threshold: int) -> None:
    with pytest.raises(ConfigError):
        KeyPlan(keys, threshold)


def test_an_empty_passphrase_is_none() -> None:
    with pytest.raises(ConfigError):
        KeyPlan(passphrase="")
