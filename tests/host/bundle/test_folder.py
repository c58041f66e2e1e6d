"""Bundle folders are whole or not there, whatever the disk does."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.manifest import (
    ArtifactRole,
    Manifest,
    ProbeLimits,
    RuntimeRequirement,
    encode_manifest,
)
from packhorse_agent.contract.measurement import Measurement
from packhorse_agent.contract.recipe import Fp32
from packhorse_agent.errors import EnvironmentFaultError
from packhorse_agent.store.errors import StorageFullError
from packhorse_agent.trust.bundle_folder import verify_bundle_folder
from packhorse_host.bundle.errors import OtherBundleError
from packhorse_host.bundle.folder import BundleContent, FolderWriter, describe_artifact
from tests.host.bundle.test_rules import evidence, measurement
from tests.host.float_models import IMAGE, LOGITS


def content(model: bytes = b"weights", profile: str = "board", timed: float = 1.0) -> BundleContent:
    files = {"model.onnx": model, "golden.npz": b"vectors"}
    roles = (ArtifactRole.MODEL, ArtifactRole.GOLDEN)
    manifest = Manifest(
        model="net",
        version="1.0",
        profile=profile,
        recipe=Fp32(),
        runtime=RuntimeRequirement(name="onnxruntime", minimum_version="1.20"),
        inputs=(IMAGE,),
        outputs=(LOGITS,),
        artifacts=tuple(
            describe_artifact(role, name, data)
            for role, (name, data) in zip(roles, files.items(), strict=True)
        ),
        probe=ProbeLimits(
            sqnr_min_db=20, agreement_min_percent=90, decision_margin=1, vectors=16, classification=True
        ),
        evidence=evidence(),
        tools={},
    )
    return BundleContent(manifest, files, _timed(manifest, timed))


def _timed(manifest: Manifest, speedup: float) -> Measurement:
    digest = sha256_hex(encode_manifest(manifest))
    return measurement(speedup).model_copy(update={"manifest_sha256": digest})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def put(output: Path, *contents: BundleContent) -> list[Path]:
    with FolderWriter(output) as writer:
        folders = [writer.stage(each) for each in contents]
        writer.publish()
    return folders


def test_what_is_written_verifies(tmp_path: Path) -> None:
    """By the device's own check; also where an artifact has several chunks."""
    (folder,) = put(tmp_path / "out", content(model=bytes(range(256)) * 1000))
    assert folder == tmp_path / "out" / "net-1.0-board-fp32"
    assert verify_bundle_folder(folder).manifest.profile == "board"


def test_everyone_may_read_a_bundle(tmp_path: Path) -> None:
    (folder,) = put(tmp_path / "out", content())
    assert folder.stat().st_mode & 0o555 == 0o555
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())


def test_nothing_is_left_beside_the_bundles(tmp_path: Path) -> None:
    put(tmp_path, content(), content(profile="other"))
    assert names(tmp_path) == ["net-1.0-board-fp32", "net-1.0-other-fp32"]


def test_staged_is_not_published(tmp_path: Path) -> None:
    """An error before `publish` leaves nothing, not even the folder that was made for it."""
    with pytest.raises(RuntimeError), FolderWriter(tmp_path / "out") as writer:
        writer.stage(content())
        raise RuntimeError
    assert not (tmp_path / "out").exists()


def test_the_same_bundle_again_is_fine(tmp_path: Path) -> None:
    """A new measurement does not make it another bundle; the one that is there stays."""
    (folder,) = put(tmp_path, content(timed=2.0))
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert put(tmp_path, content(timed=3.0)) == [folder]
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert json.loads((folder / "measurement.json").read_text())["speedup"] == 2.0


def test_another_bundle_in_its_place_is_a_conflict(tmp_path: Path) -> None:
    (folder,) = put(tmp_path, content())
    with pytest.raises(OtherBundleError, match=r"manifest\.json, model\.onnx differ") as caught:
        put(tmp_path, content(profile="other"), content(model=b"others"))
    assert caught.value.exit_code is ExitCode.CONFLICT
    assert (folder / "model.onnx").read_bytes() == b"weights"
    assert names(tmp_path) == [folder.name], "nor is the other profile's bundle there"


def test_a_damaged_bundle_in_its_place_is_a_conflict(tmp_path: Path) -> None:
    (folder,) = put(tmp_path, content())
    (folder / "golden.npz").unlink()
    with pytest.raises(OtherBundleError, match=r"golden\.npz"):
        put(tmp_path, content())


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("here first")
    with pytest.raises(EnvironmentFaultError, match="out") as caught:
        put(tmp_path / "out", content())
    assert caught.value.exit_code is ExitCode.ENVIRONMENT


def test_an_output_that_cannot_be_made() -> None:
    with pytest.raises(EnvironmentFaultError, match="/proc"):
        put(Path("/proc/packhorse-bundles"), content())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_nothing(small_disk: Path) -> None:
    """The first bundle fits, the second does not: neither is there."""
    fits, too_large = content(model=os.urandom(40_000)), content(model=os.urandom(150_000), profile="other")
    with pytest.raises(StorageFullError) as caught:
        put(small_disk / "out", fits, too_large)
    assert caught.value.exit_code is ExitCode.ENVIRONMENT
    assert names(small_disk) == []
    assert put(small_disk / "out", fits)
