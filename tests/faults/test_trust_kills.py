"""A kill at any boundary of a publish, of a change of rollouts, or of a device's acceptance."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from packhorse_agent.contract.rollout import Assignments, RolloutsDocument
from packhorse_agent.contract.selection import assignment_key, assignment_shard
from packhorse_agent.contract.trustset import decode_trust_set
from packhorse_agent.trust.keeper import TrustKeeper
from packhorse_agent.trust.ports import TargetInfo
from packhorse_agent.trust.view import TrustedView
from packhorse_host.repository import KeyPlan, Repository
from packhorse_host.workspace import Workspace
from tests.fakes.disk import Killed, MortalFiles
from tests.host.repository.bundles import add_measurement, make_bundle
from tests.host.repository.fleets import FLEET, Fleet

SALT = "7" * 32
EVERY_MAX = 400

Work = Callable[[Repository], object]


def kill_everywhere(fleet: Fleet, tmp_path: Path, work: Work, check: Callable[[Fleet], None]) -> int:
    """Do `work` on a copy of the fleet, killed at its first, second, … change, until it lives."""
    for dies_at in range(1, EVERY_MAX):
        copy = Fleet.__new__(Fleet)
        copy.__dict__.update(fleet.__dict__)
        copy.folder = tmp_path / f"copy-{dies_at}"
        shutil.copytree(fleet.folder, copy.folder)
        copy.repository = copy.open()
        try:
            work(copy.open(MortalFiles(dies_at)))
        except Killed:
            check(copy)
            work(copy.open())
            check(copy)
            shutil.rmtree(copy.folder)
        else:
            return dies_at - 1
    raise AssertionError("the work has no end")


def test_a_kill_of_publish_leaves_a_valid_repository(tmp_path: Path) -> None:
    """All bundles or none, whatever the moment; the next publish makes it whole."""
    fleet = Fleet(tmp_path / "fleet")
    fleet.repository.publish([make_bundle(tmp_path / "old", version="0.9")])
    folders = [
        make_bundle(tmp_path / "large", content=os.urandom(100_000)),
        make_bundle(tmp_path / "new", model="wake-word"),
    ]
    add_measurement(folders[0])
    counts: set[int] = set()

    def check(copy: Fleet) -> None:
        releases = copy.repository.releases()
        counts.add(len(releases))
        view = copy.view(tmp_path / f"device-of-{copy.folder.name}-{len(releases)}")
        assert isinstance(view.resolve(releases[-1].ref.target), TargetInfo)
        assert all(copy.blob(release.ref.sha256) is not None for release in releases)

    boundaries = kill_everywhere(fleet, tmp_path, lambda one: one.publish(folders), check)
    assert counts == {1, 3}
    assert boundaries > 40


def test_a_kill_of_a_change_of_rollouts_leaves_the_old_or_the_new_tags(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    for number in range(5):
        fleet.repository.set_rollouts(RolloutsDocument(fleet=FLEET), tagged(f"t{number}"))
    seen: set[frozenset[str]] = set()

    def check(copy: Fleet) -> None:
        tags = copy.view(tmp_path / "device").tags("pi-1")
        shutil.rmtree(tmp_path / "device")
        assert isinstance(tags, frozenset)
        seen.add(tags)

    def work(repository: Repository) -> None:
        repository.set_rollouts(RolloutsDocument(fleet=FLEET), tagged("new"))

    kill_everywhere(fleet, tmp_path, work, check)
    assert seen == {frozenset({"t4"}), frozenset({"new"})}


def tagged(tag: str) -> dict[int, Assignments]:
    return {assignment_shard("pi-1"): Assignments(salt=SALT, tags={assignment_key(SALT, "pi-1"): (tag,)})}


def test_a_kill_of_acceptance_leaves_the_old_metadata_or_the_new(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    fleet.view(tmp_path / "before")
    fleet.repository.set_rollouts(RolloutsDocument(fleet=FLEET), tagged("new"))
    files = decode_trust_set(fleet.repository.trust_set())
    seen = set()
    for dies_at in range(1, EVERY_MAX):
        folder = tmp_path / f"device-{dies_at}"
        shutil.copytree(tmp_path / "before", folder)
        try:
            disk = MortalFiles(dies_at)
            TrustKeeper(folder, fleet.anchor, FLEET, disk).offer(files, fleet.blob, fleet.clock())
        except Killed:
            keeper = TrustKeeper(folder, fleet.anchor, FLEET)
            view = keeper.current(fleet.clock())
            assert view is not None
            seen.add(view.version)
            again = keeper.offer(files, fleet.blob, fleet.clock())
            assert isinstance(again, TrustedView)
            assert again.tags("pi-1") == frozenset({"new"})
        else:
            break
    assert seen == {1, 2}


def test_a_publisher_that_is_killed_does_not_keep_others_out(tmp_path: Path) -> None:
    """The lock goes with the process: a real SIGKILL, in the middle of the metadata."""
    fleet = Fleet(tmp_path / "fleet")
    bundle = make_bundle(tmp_path / "bundle")
    child = os.fork()
    if child == 0:
        try:
            fleet.open(MortalFiles(30)).publish([bundle])
        except Killed:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert fleet.repository.releases() == []
    fleet.repository.publish([bundle])
    assert len(fleet.repository.releases()) == 1


def test_an_init_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_repository: Repository, _plan: KeyPlan) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Repository, "found", fail)
    with pytest.raises(Exception, match="No space left"):
        Workspace.create(tmp_path / "fleet", "farm", KeyPlan())
    assert list(tmp_path.iterdir()) == []
