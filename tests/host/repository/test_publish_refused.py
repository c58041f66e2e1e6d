"""What is refused at publish, with nothing half done."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.manifest import Manifest
from packhorse_agent.contract.trustset import decode_trust_set
from packhorse_agent.store.errors import StorageFullError
from packhorse_agent.store.files import OsFiles
from packhorse_agent.trust.errors import NotABundleError, TamperedBundleError, TruncatedBundleError
from packhorse_agent.trust.keeper import TrustKeeper
from packhorse_host.errors import PackhorseError
from packhorse_host.repository import (
    DamagedRepositoryError,
    ReleaseTakenError,
)
from tests.fakes.disk import FastFiles
from tests.host.repository.bundles import add_measurement, make_bundle
from tests.host.repository.fleets import FLEET, Clock, Fleet, tree


def halve_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut(folder: Path) -> None:
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1])


def grow(folder: Path) -> None:
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"x")


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[0] ^= 1
    (folder / "model.onnx").write_bytes(content)


def link(folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "elsewhere")
    (folder / "model.onnx").symlink_to(folder / "elsewhere")


def edit(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return change


def swap_measurement(folder: Path) -> None:
    add_measurement(folder)
    edit('"version":"1.0"', '"version":"1.1"')(folder)


def damage_measurement(folder: Path) -> None:
    (folder / "measurement.json").write_bytes(b"{}")


BROKEN: list[tuple[str, Callable[[Path], object], type[PackhorseError]]] = [
    ("no manifest", lambda folder: (folder / "manifest.json").unlink(), NotABundleError),
    ("empty manifest", lambda folder: (folder / "manifest.json").write_bytes(b""), NotABundleError),
    ("manifest truncated", halve_manifest, TruncatedBundleError),
    ("garbage manifest", lambda folder: (folder / "manifest.json").write_bytes(b"\xff{"), NotABundleError),
    (
        "huge manifest",
        lambda folder: (folder / "manifest.json").write_bytes(b" " * 70_000),
        NotABundleError,
    ),
    ("manifest of a future format", edit('"format":1', '"format":2'), NotABundleError),
    ("path out of the folder", edit('"file":"model.onnx"', '"file":"../model.onnx"'), NotABundleError),
    ("artifact missing", lambda folder: (folder / "model.onnx").unlink(), TruncatedBundleError),
    ("artifact truncated", cut, TruncatedBundleError),
    ("artifact longer", grow, TamperedBundleError),
    ("artifact changed", flip, TamperedBundleError),
    ("artifact is a link", link, TamperedBundleError),
    ("digest changed", edit(sha256_hex(b"golden"), "0" * 64), TamperedBundleError),
    ("measured on another bundle", swap_measurement, TamperedBundleError),
    ("damaged measurement", damage_measurement, TamperedBundleError),
]


@pytest.mark.parametrize(("name", "damage", "error"), BROKEN, ids=[case[0] for case in BROKEN])
def test_a_bundle_that_does_not_fit_its_manifest_is_refused(
    fleet: Fleet, tmp_path: Path, name: str, damage: Callable[[Path], object], error: type[PackhorseError]
) -> None:
    """And so is everything that was given with it: nothing is half done."""
    good, bad = make_bundle(tmp_path / "good", model="other"), make_bundle(tmp_path / name)
    damage(bad)
    before = tree(fleet.folder)
    with pytest.raises(error, match=str(tmp_path)):
        fleet.repository.publish([good, bad])
    assert tree(fleet.folder) == before


def test_a_chunk_index_that_is_not_the_files_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", content=os.urandom(100_000))
    manifest = Manifest.model_validate_json((bundle / "manifest.json").read_bytes())
    edit(manifest.artifacts[0].chunk_index[0], "0" * 64)(bundle)
    with pytest.raises(TamperedBundleError, match="chunk index"):
        fleet.repository.publish([bundle])


def test_a_folder_that_is_none_is_no_bundle(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(NotABundleError):
        fleet.repository.publish([tmp_path / "missing"])


def test_a_release_never_changes(fleet: Fleet, bundle: Path, tmp_path: Path) -> None:
    fleet.repository.publish([bundle])
    before = tree(fleet.folder)
    with pytest.raises(ReleaseTakenError, match=r"detector 1\.0 for raspberry-pi-5"):
        fleet.repository.publish([make_bundle(tmp_path / "other", content=b"other weights")])
    assert tree(fleet.folder) == before


def test_two_bundles_of_one_name_are_refused(fleet: Fleet, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseTakenError):
        fleet.repository.publish([bundle, make_bundle(tmp_path / "other", content=b"other")])


def test_a_file_that_changes_while_it_is_published_is_refused(
    fleet: Fleet, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(fleet.folder)
    create = OsFiles.create

    def change_then_create(disk: OsFiles, path: Path, mode: int) -> int:
        (bundle / "model.onnx").write_bytes(b"WEIGHTS")
        return create(disk, path, mode)

    monkeypatch.setattr(OsFiles, "create", change_then_create)
    with pytest.raises(TamperedBundleError, match="changed while"):
        fleet.repository.publish([bundle])
    assert tree(fleet.folder) == before


class FullDisk(FastFiles):
    """Takes `room_bytes` more, then no more."""

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes

    def write(self, handle: int, data: bytes, offset: int) -> None:
        self.room_bytes -= len(data)
        if self.room_bytes < 0:
            raise StorageFullError("no space left")
        super().write(handle, data, offset)


def test_a_full_disk_leaves_no_content_behind(fleet: Fleet, bundle: Path) -> None:
    """At every point where the disk can become full."""
    before = tree(fleet.folder / "repository/blobs")
    for room_bytes in range(0, 100_000, 400):
        try:
            fleet.open(FullDisk(room_bytes)).publish([bundle])
        except StorageFullError:
            assert tree(fleet.folder / "repository/blobs") == before
            assert fleet.repository.releases() == []
        else:
            assert room_bytes > 0
            break
    assert len(fleet.repository.releases()) == 1


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json", "1.root.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"garbage"])
def test_damaged_metadata_is_named(fleet: Fleet, bundle: Path, name: str, content: bytes | None) -> None:
    path = fleet.folder / "repository/metadata" / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DamagedRepositoryError):
        fleet.repository.publish([bundle])


def test_a_blob_that_cannot_be_looked_up_is_an_input_error(fleet: Fleet) -> None:
    (fleet.folder / "repository/metadata/timestamp.json").unlink()
    with pytest.raises(OSError, match="timestamp"):
        fleet.repository.open_blob("0" * 64)


def test_a_device_of_another_fleet_refuses(fleet: Fleet, tmp_path: Path) -> None:
    other = Fleet(tmp_path / "other")
    keeper = TrustKeeper(tmp_path / "device", other.anchor, FLEET)
    with pytest.raises(PackhorseError):
        keeper.offer(decode_trust_set(fleet.repository.trust_set()), fleet.blob, Clock()())
