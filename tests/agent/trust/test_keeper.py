"""What a device accepts, keeps and says."""

from __future__ import annotations

import errno
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from packhorse_agent.contract.rollout import RolloutsDocument
from packhorse_agent.store.errors import StorageFaultError, StorageFullError
from packhorse_agent.trust.errors import (
    BadSignatureError,
    IncompleteMetadataError,
    MalformedMetadataError,
    WrongFleetError,
)
from packhorse_agent.trust.keeper import TrustKeeper
from packhorse_agent.trust.ports import NeedsBlobs, TargetInfo
from packhorse_agent.trust.view import TrustedView
from tests.agent.trust.simulator import (
    FLEET,
    MANIFEST,
    MANIFEST_PATH,
    NOW,
    FleetSimulator,
    describe,
    no_blobs,
    sha256,
)
from tests.fakes.disk import FastFiles


@pytest.fixture
def keeper(fleet: FleetSimulator, tmp_path: Path) -> TrustKeeper:
    return make_keeper(fleet, tmp_path)


def make_keeper(fleet: FleetSimulator, folder: Path) -> TrustKeeper:
    return TrustKeeper(folder / "trust", fleet.roots[0], FLEET, FastFiles())


def accept(keeper: TrustKeeper, files: dict[str, bytes]) -> TrustedView:
    view = keeper.offer(files, no_blobs, NOW)
    assert isinstance(view, TrustedView)
    return view


def test_a_valid_trust_set_is_accepted(fleet: FleetSimulator, keeper: TrustKeeper) -> None:
    view = accept(keeper, fleet.files())
    assert view.version == 1
    assert view.rollouts == fleet.rollouts_document
    assert not view.expired
    assert view.expires == fleet.timestamp.expires
    assert view.issued_at == NOW - timedelta(days=10)


def test_nothing_is_current_before_something_was_accepted(keeper: TrustKeeper) -> None:
    assert keeper.current(NOW) is None


def test_what_was_accepted_survives_a_restart(fleet: FleetSimulator, tmp_path: Path) -> None:
    fleet.tags = {"pi-1": ("canary",)}
    fleet.sign_all()
    accept(make_keeper(fleet, tmp_path), fleet.files())
    view = make_keeper(fleet, tmp_path).current(NOW)
    assert view is not None
    assert (view.version, view.expired, view.tags("pi-1")) == (1, False, frozenset({"canary"}))
    assert view.resolve(MANIFEST_PATH) == TargetInfo(sha256(MANIFEST), len(MANIFEST), "0")


def test_after_a_restart_expired_metadata_is_shown_as_expired(fleet: FleetSimulator, tmp_path: Path) -> None:
    accept(make_keeper(fleet, tmp_path), fleet.files())
    view = make_keeper(fleet, tmp_path).current(NOW + timedelta(days=30))
    assert view is not None
    assert view.expired
    assert view.rollouts == fleet.rollouts_document


def test_the_same_trust_set_again_is_no_news_and_writes_nothing(
    fleet: FleetSimulator, keeper: TrustKeeper, tmp_path: Path
) -> None:
    accept(keeper, fleet.files())
    before = (tmp_path / "trust/accepted.json").stat()
    assert accept(keeper, fleet.files()).version == 1
    after = (tmp_path / "trust/accepted.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_no_scratch_folder_is_left(fleet: FleetSimulator, keeper: TrustKeeper, tmp_path: Path) -> None:
    accept(keeper, fleet.files())
    with pytest.raises(IncompleteMetadataError):
        keeper.offer({}, no_blobs, NOW)
    assert sorted(entry.name for entry in (tmp_path / "trust").iterdir()) == ["accepted.json", "files"]


def test_a_scratch_folder_that_a_kill_left_is_removed(fleet: FleetSimulator, tmp_path: Path) -> None:
    left = tmp_path / "trust/scratch-abc"
    left.mkdir(parents=True)
    (left / "root.json").write_bytes(b"x")
    make_keeper(fleet, tmp_path)
    assert not left.exists()


def test_superseded_files_are_removed(fleet: FleetSimulator, keeper: TrustKeeper, tmp_path: Path) -> None:
    accept(keeper, fleet.files())
    count = len(list((tmp_path / "trust/files").iterdir()))
    for _ in range(3):
        accept(keeper, fleet.publish("rollouts"))
    assert len(list((tmp_path / "trust/files").iterdir())) == count


def test_names_that_it_does_not_know_are_ignored(fleet: FleetSimulator, keeper: TrustKeeper) -> None:
    assert accept(keeper, {**fleet.files(), "9.future.json": b"?", "targets/other": b"?"}).version == 1


def test_what_the_set_lacks_is_pulled_by_hash_step_by_step(
    fleet: FleetSimulator, keeper: TrustKeeper
) -> None:
    files = fleet.files("snapshot", "targets", "rollouts", "model")
    have: dict[str, bytes] = {}
    pulled = []
    while isinstance(outcome := keeper.offer(files, have.get, NOW), NeedsBlobs):
        for blob in outcome.blobs:
            assert blob.size_bytes == len(fleet.blobs()[blob.sha256])
            have[blob.sha256] = fleet.blobs()[blob.sha256]
            pulled.append(outcome.reason)
        assert len(pulled) < 9
    assert len(pulled) == 4
    assert outcome.rollouts == fleet.rollouts_document


def test_metadata_of_several_chunks_is_pulled_with_its_signed_index(
    fleet: FleetSimulator, keeper: TrustKeeper
) -> None:
    role = fleet.roles["model-detector"]
    for number in range(500):
        path = f"bundles/detector/2.{number}/raspberry-pi-5/fp32/manifest.json"
        role.targets[path] = describe(path, MANIFEST)
    view = accept(keeper, {k: v for k, v in fleet.publish("model-detector").items() if "model" not in k})
    needs = view.resolve(MANIFEST_PATH)
    assert isinstance(needs, NeedsBlobs)
    assert needs.blobs[0].size_bytes > 64 * 1024
    assert len(needs.blobs[0].chunk_index) == 1


def test_a_model_role_is_pulled_when_it_is_asked_for_and_kept(fleet: FleetSimulator, tmp_path: Path) -> None:
    have: dict[str, bytes] = {}
    view = make_keeper(fleet, tmp_path).offer(fleet.files("model"), have.get, NOW)
    assert isinstance(view, TrustedView)
    assert isinstance(needs := view.resolve(MANIFEST_PATH), NeedsBlobs)
    assert [blob.sha256 for blob in needs.blobs] == [sha256(fleet.signed["model-detector"])]
    have |= fleet.blobs()
    assert isinstance(view.resolve(MANIFEST_PATH), TargetInfo)
    again = make_keeper(fleet, tmp_path).current(NOW)
    assert again is not None
    assert isinstance(again.resolve(MANIFEST_PATH), TargetInfo)


def test_after_a_restart_a_view_pulls_from_the_blobs_that_it_is_given(
    fleet: FleetSimulator, tmp_path: Path
) -> None:
    keeper = make_keeper(fleet, tmp_path)
    accept(keeper, fleet.files("model"))
    view = make_keeper(fleet, tmp_path).current(NOW, fleet.blobs().get)
    assert view is not None
    assert isinstance(view.resolve(MANIFEST_PATH), TargetInfo)


def test_a_model_role_that_did_not_change_is_not_pulled_again(
    fleet: FleetSimulator, keeper: TrustKeeper
) -> None:
    accept(keeper, fleet.files())
    newer = fleet.publish("rollouts")
    view = accept(keeper, {name: data for name, data in newer.items() if "model" not in name})
    assert isinstance(view.resolve(MANIFEST_PATH), TargetInfo)


def test_tags_are_pulled_when_they_are_not_in_the_set(fleet: FleetSimulator, tmp_path: Path) -> None:
    fleet.tags = {"pi-1": ("canary", "north")}
    fleet.sign_all()
    have: dict[str, bytes] = {}
    view = make_keeper(fleet, tmp_path).offer(fleet.files("assignments"), have.get, NOW)
    assert isinstance(view, TrustedView)
    assert isinstance(view.tags("pi-1"), NeedsBlobs)
    have |= fleet.blobs()
    assert view.tags("pi-1") == frozenset({"canary", "north"})
    again = make_keeper(fleet, tmp_path).current(NOW)
    assert again is not None
    assert again.tags("pi-1") == frozenset({"canary", "north"})


def test_a_device_without_assignments_has_no_tags(fleet: FleetSimulator, keeper: TrustKeeper) -> None:
    assert accept(keeper, fleet.files()).tags("pi-1") == frozenset()


def test_a_minimum_version_comes_from_the_release_key(fleet: FleetSimulator, keeper: TrustKeeper) -> None:
    fleet.roles["model-detector"].unrecognized_fields["packhorse_minimum_version"] = "1.1"
    target = accept(keeper, fleet.publish("model-detector")).resolve(MANIFEST_PATH)
    assert isinstance(target, TargetInfo)
    assert target.minimum_version == "1.1"


@pytest.mark.parametrize(
    "path",
    [
        "bundles/detector/9.9/raspberry-pi-5/static_wi8_ai8/manifest.json",
        "bundles/unknown/1.2/raspberry-pi-5/static_wi8_ai8/manifest.json",
        "bundles/detector/../../rollouts/rollouts.json",
        "",
        "/",
    ],
)
def test_what_no_release_key_signed_is_no_target(
    fleet: FleetSimulator, keeper: TrustKeeper, path: str
) -> None:
    assert accept(keeper, fleet.files()).resolve(path) is None


def test_an_expired_model_role_installs_nothing_and_says_so(
    fleet: FleetSimulator, keeper: TrustKeeper
) -> None:
    fleet.roles["model-detector"].expires = NOW - timedelta(seconds=1)
    needs = accept(keeper, fleet.publish("model-detector")).resolve(MANIFEST_PATH)
    assert isinstance(needs, NeedsBlobs)
    assert needs.blobs == ()
    assert "expired" in needs.reason


def test_the_rollouts_of_another_fleet_are_refused(fleet: FleetSimulator, keeper: TrustKeeper) -> None:
    fleet.rollouts_document = RolloutsDocument(fleet="other")
    with pytest.raises(WrongFleetError):
        keeper.offer(fleet.publish("rollouts"), no_blobs, NOW)


def test_an_enrolment_with_another_root_starts_anew(fleet: FleetSimulator, tmp_path: Path) -> None:
    accept(make_keeper(fleet, tmp_path), fleet.publish("rollouts"))
    other = FleetSimulator()
    keeper = make_keeper(other, tmp_path)
    assert keeper.current(NOW) is None
    assert accept(keeper, other.files()).version == 1


def test_a_device_never_starts_from_a_root_that_is_none(tmp_path: Path) -> None:
    keeper = TrustKeeper(tmp_path, b"{}", FLEET)
    with pytest.raises(MalformedMetadataError):
        keeper.offer(FleetSimulator().files(), no_blobs, NOW)


def test_a_device_of_another_root_refuses(fleet: FleetSimulator, tmp_path: Path) -> None:
    keeper = make_keeper(FleetSimulator(), tmp_path)
    with pytest.raises(BadSignatureError):
        keeper.offer(fleet.files(), no_blobs, NOW)


def test_damaged_accepted_metadata_is_taken_in_anew(fleet: FleetSimulator, tmp_path: Path) -> None:
    accept(make_keeper(fleet, tmp_path), fleet.files())
    for file in (tmp_path / "trust/files").iterdir():
        file.write_bytes(file.read_bytes()[:-5])
    keeper = make_keeper(fleet, tmp_path)
    assert keeper.current(NOW) is None
    assert accept(keeper, fleet.files()).version == 1


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1}', b"\xff" * 100, b"[]"])
def test_an_unreadable_state_file_is_no_reason_not_to_start(
    fleet: FleetSimulator, tmp_path: Path, content: bytes
) -> None:
    accept(make_keeper(fleet, tmp_path), fleet.files())
    (tmp_path / "trust/accepted.json").write_bytes(content)
    keeper = make_keeper(fleet, tmp_path)
    assert keeper.current(NOW) is None
    assert accept(keeper, fleet.files()).version == 1


class FullDisk(FastFiles):
    """No space left, once `full` is set."""

    full = False

    def write(self, handle: int, data: bytes, offset: int) -> None:
        if self.full:
            raise StorageFullError("no space left")
        super().write(handle, data, offset)


def test_on_a_full_disk_nothing_is_accepted(fleet: FleetSimulator, tmp_path: Path) -> None:
    disk = FullDisk()
    keeper = TrustKeeper(tmp_path, fleet.roots[0], FLEET, disk)
    accept(keeper, fleet.files())
    disk.full = True
    newer = fleet.publish("rollouts")
    with pytest.raises(StorageFullError):
        keeper.offer(newer, no_blobs, NOW)
    current = keeper.current(NOW)
    assert current is not None
    assert current.version == 1
    disk.full = False
    assert accept(keeper, newer).version == 2


def test_without_room_for_the_scratch_folder_nothing_is_accepted(
    fleet: FleetSimulator, keeper: TrustKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    accept(keeper, fleet.files())
    newer = fleet.publish("rollouts")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(StorageFullError):
            keeper.offer(newer, no_blobs, NOW)
    assert accept(keeper, newer).version == 2


def test_a_state_folder_that_is_gone_is_a_fault_of_the_environment(
    fleet: FleetSimulator, keeper: TrustKeeper, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "trust")
    with pytest.raises(StorageFaultError):
        keeper.offer(fleet.files(), no_blobs, NOW)
