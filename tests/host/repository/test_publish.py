"""What is published, by one or by many, and what devices make of it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.manifest import Manifest
from packhorse_agent.contract.rollout import RolloutsDocument
from packhorse_agent.store.files import OsFiles
from packhorse_agent.trust.ports import TargetInfo
from packhorse_host.errors import BadInputError, NotFoundError, RefusedError
from packhorse_host.repository import (
    BelowMinimumError,
)
from tests.host.repository.bundles import add_measurement, make_bundle
from tests.host.repository.fleets import FLEET, START, Fleet, assignments, tree


def test_a_new_repository_is_accepted_by_a_device(fleet: Fleet, tmp_path: Path) -> None:
    view = fleet.view(tmp_path / "device")
    assert view.rollouts == RolloutsDocument(fleet=FLEET)
    assert (view.version, view.issued_at, view.expired) == (1, START, False)


def test_a_published_bundle_is_a_target(fleet: Fleet, bundle: Path, tmp_path: Path) -> None:
    [ref] = fleet.repository.publish([bundle])
    target = fleet.view(tmp_path / "device").resolve(ref.target)
    assert target == TargetInfo(ref.sha256, ref.size_bytes, "0")
    assert ref.target == "bundles/detector/1.0/raspberry-pi-5/static_wi8_ai8/manifest.json"
    assert ref.sha256 == sha256_hex((bundle / "manifest.json").read_bytes())


def test_everything_that_a_device_pulls_is_there(fleet: Fleet, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "large", content=os.urandom(200_000))
    [ref] = fleet.repository.publish([bundle])
    manifest = Manifest.model_validate_json(fleet.blob(ref.sha256) or b"")
    for artifact in manifest.artifacts:
        assert fleet.blob(artifact.sha256) == (bundle / artifact.file).read_bytes()
        for level in artifact.chunk_index:
            assert sha256_hex(fleet.blob(level) or b"") == level
    assert fleet.blob("0" * 64) is None


def test_several_models_and_profiles_at_once(fleet: Fleet, tmp_path: Path) -> None:
    names = [("detector", "raspberry-pi-5"), ("detector", "android-arm64"), ("wake-word", "raspberry-pi-5")]
    folders = [make_bundle(tmp_path / str(n), model=m, profile=p) for n, (m, p) in enumerate(names)]
    refs = fleet.repository.publish(folders)
    assert [(one.model, one.profile) for one in fleet.repository.releases()] == sorted(names)
    view = fleet.view(tmp_path / "device")
    assert all(isinstance(view.resolve(ref.target), TargetInfo) for ref in refs)


def test_releases_are_sorted_by_number(fleet: Fleet, tmp_path: Path) -> None:
    for version in ("1.10", "1.9", "1.2"):
        fleet.repository.publish([make_bundle(tmp_path / version, version=version)])
    assert [one.version for one in fleet.repository.releases()] == ["1.2", "1.9", "1.10"]


def test_publishing_the_same_again_changes_nothing(fleet: Fleet, bundle: Path) -> None:
    first = fleet.repository.publish([bundle])
    before = tree(fleet.folder)
    assert fleet.repository.publish([bundle, bundle]) == [*first]
    assert tree(fleet.folder) == before


def test_the_same_inputs_give_the_same_refs(tmp_path: Path) -> None:
    refs = []
    for name in ("a", "b"):
        one = Fleet(tmp_path / name / "fleet")
        refs.append(one.repository.publish([make_bundle(tmp_path / name / "bundle")]))
    assert refs[0] == refs[1]


def test_a_measurement_is_signed_beside_the_manifest(fleet: Fleet, bundle: Path, tmp_path: Path) -> None:
    add_measurement(bundle)
    [ref] = fleet.repository.publish([bundle])
    path = ref.target.replace("manifest.json", "measurement.json")
    target = fleet.view(tmp_path / "device").resolve(path)
    assert isinstance(target, TargetInfo)
    assert fleet.blob(target.sha256) == (bundle / "measurement.json").read_bytes()
    add_measurement(bundle, speedup=3.0)
    assert fleet.repository.publish([bundle]) == [ref]
    again = fleet.view(tmp_path / "device").resolve(path)
    assert again != target


def test_every_change_has_another_version(fleet: Fleet, bundle: Path) -> None:
    assert fleet.repository.version() == 1
    fleet.repository.publish([bundle])
    assert fleet.repository.version() == 2
    assert fleet.open().version() == 2


def test_concurrent_publishers_are_served_one_after_the_other(fleet: Fleet, tmp_path: Path) -> None:
    folders = [make_bundle(tmp_path / f"{n}", model=f"m{n % 3}", version=f"1.{n}") for n in range(9)]
    errors: list[BaseException] = []

    def publish(folder: Path) -> None:
        try:
            fleet.open().publish([folder])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert errors == []
    assert len(fleet.repository.releases()) == 9
    view = fleet.view(tmp_path / "device")
    assert all(isinstance(view.resolve(one.ref.target), TargetInfo) for one in fleet.repository.releases())


def test_a_publish_that_waits_for_its_files_does_not_keep_rollouts_waiting(
    fleet: Fleet, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying, go_on = threading.Event(), threading.Event()
    create = OsFiles.create

    def slow(disk: OsFiles, path: Path, mode: int) -> int:
        if threading.current_thread() is thread:
            copying.set()
            assert go_on.wait(30)
        return create(disk, path, mode)

    monkeypatch.setattr(OsFiles, "create", slow)
    thread = threading.Thread(target=fleet.open().publish, args=([bundle],))
    thread.start()
    try:
        assert copying.wait(30)
        fleet.repository.set_rollouts(RolloutsDocument(fleet=FLEET), assignments("pi-1"))
    finally:
        go_on.set()
        thread.join(30)
    assert fleet.repository.version() == 3
    assert len(fleet.repository.releases()) == 1


def test_a_minimum_version_reaches_devices(fleet: Fleet, tmp_path: Path) -> None:
    [old] = fleet.repository.publish([make_bundle(tmp_path / "1", version="1.0")])
    fleet.repository.publish([make_bundle(tmp_path / "2", version="1.2")])
    fleet.repository.set_minimum_version("detector", "1.1")
    target = fleet.view(tmp_path / "device").resolve(old.target)
    assert isinstance(target, TargetInfo)
    assert target.minimum_version == "1.1"
    with pytest.raises(BelowMinimumError):
        fleet.repository.publish([make_bundle(tmp_path / "3", version="1.0.5")])


def test_a_minimum_above_every_release_is_refused(fleet: Fleet, bundle: Path) -> None:
    fleet.repository.publish([bundle])
    with pytest.raises(RefusedError):
        fleet.repository.set_minimum_version("detector", "1.0.1")
    with pytest.raises(NotFoundError):
        fleet.repository.set_minimum_version("unknown", "1.0")


@pytest.mark.parametrize("version", ["", "one", "1.", "1.0-rc1", "1.2.3.4.5"])
def test_a_minimum_that_is_no_version_is_refused(fleet: Fleet, bundle: Path, version: str) -> None:
    """A device would read it as no minimum at all."""
    fleet.repository.publish([bundle])
    with pytest.raises(BadInputError):
        fleet.repository.set_minimum_version("detector", version)
