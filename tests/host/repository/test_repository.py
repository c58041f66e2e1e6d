"""What is published, what devices make of it, and what is refused with nothing half done."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.limits import TRUST_SET_MAX_BYTES
from packhorse_agent.contract.manifest import Manifest
from packhorse_agent.contract.rollout import Assignments, RolloutsDocument
from packhorse_agent.contract.selection import assignment_key, assignment_shard
from packhorse_agent.contract.trustset import decode_trust_set
from packhorse_agent.store.errors import StorageFullError
from packhorse_agent.store.files import OsFiles
from packhorse_agent.trust import TargetInfo, TrustKeeper
from packhorse_agent.trust.errors import NotABundleError, TamperedBundleError, TruncatedBundleError
from packhorse_host.errors import BadInputError, ConfigError, NotFoundError, PackhorseError, RefusedError
from packhorse_host.repository import (
    BelowMinimumError,
    DamagedRepositoryError,
    KeyPlan,
    MissingKeyError,
    ReleaseTakenError,
    TooLargeError,
    WrongPassphraseError,
)
from tests.fakes.disk import FastFiles
from tests.host.repository.bundles import add_measurement, make_bundle
from tests.host.repository.fleets import FLEET, START, Clock, Fleet

SALT = "5" * 32


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file, but the locks: they hold nothing."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# publishing -----------------------------------------------------------------------------------------------


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


# what is refused at publish -------------------------------------------------------------------------------


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


# keys -----------------------------------------------------------------------------------------------------


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


# minimum version ------------------------------------------------------------------------------------------


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


# rollouts, refresh ----------------------------------------------------------------------------------------


def assignments(*device_ids: str) -> dict[int, Assignments]:
    shards: dict[int, dict[str, tuple[str, ...]]] = {}
    for device_id in device_ids:
        shards.setdefault(assignment_shard(device_id), {})[assignment_key(SALT, device_id)] = ("canary",)
    return {shard: Assignments(salt=SALT, tags=tags) for shard, tags in shards.items()}


def test_the_same_rollouts_again_sign_nothing(fleet: Fleet) -> None:
    document = RolloutsDocument(fleet=FLEET)
    fleet.repository.set_rollouts(document, assignments("pi-1", "pi-2"))
    before = tree(fleet.folder)
    fleet.repository.set_rollouts(document, assignments("pi-1", "pi-2"))
    assert tree(fleet.folder) == before
    assert fleet.repository.rollouts() == document


def test_a_shard_that_is_not_named_is_taken_away(fleet: Fleet, tmp_path: Path) -> None:
    document = RolloutsDocument(fleet=FLEET)
    fleet.repository.set_rollouts(document, assignments("pi-1"))
    fleet.repository.set_rollouts(document, {})
    assert fleet.view(tmp_path / "device").tags("pi-1") == frozenset()


def test_rollouts_of_another_fleet_are_refused(fleet: Fleet) -> None:
    with pytest.raises(BadInputError):
        fleet.repository.set_rollouts(RolloutsDocument(fleet="other"), {})


def test_assignments_that_no_device_could_take_are_refused(fleet: Fleet) -> None:
    tags = {f"{number:064x}": ("canary", "north") for number in range(16_000)}
    before = tree(fleet.folder)
    with pytest.raises(TooLargeError, match="assignments/3"):
        fleet.repository.set_rollouts(RolloutsDocument(fleet=FLEET), {3: Assignments(salt=SALT, tags=tags)})
    assert tree(fleet.folder) == before


def test_refresh_signs_only_what_is_due(fleet: Fleet, tmp_path: Path) -> None:
    assert not fleet.repository.refresh(fleet.clock())
    fleet.clock.advance(days=1, hours=1)
    assert fleet.repository.refresh(fleet.clock())
    assert not fleet.repository.refresh(fleet.clock())
    assert fleet.view(tmp_path / "device").version == 2


def test_a_fleet_that_is_refreshed_never_expires(fleet: Fleet, tmp_path: Path) -> None:
    for _ in range(20):
        fleet.clock.advance(hours=20)
        fleet.repository.refresh(fleet.clock())
        assert not fleet.view(tmp_path / "device").expired


def test_superseded_metadata_and_documents_are_removed(fleet: Fleet) -> None:
    def files() -> int:
        return len(tree(fleet.folder / "repository"))

    counts = []
    for number in range(12):
        fleet.repository.set_rollouts(RolloutsDocument(fleet=FLEET), assignments(f"pi-{number}"))
        counts.append(files())
    assert counts[-1] == counts[-2] == counts[-3]


# the trust set --------------------------------------------------------------------------------------------


def test_the_trust_set_holds_what_is_rolled_out_before_anything_else(fleet: Fleet, tmp_path: Path) -> None:
    """And stays within its bound however much is published; the rest is pulled by hash."""
    folders = [
        make_bundle(tmp_path / f"{model}-{version}", model=f"m{model}", version=f"1.{version}")
        for model in range(12)
        for version in range(3)
    ]
    refs = fleet.repository.publish(folders)
    many = {shard: Assignments(salt=SALT, tags=_many(shard)) for shard in range(16)}
    fleet.repository.set_rollouts(RolloutsDocument(fleet=FLEET), many)
    framed = fleet.repository.trust_set()
    assert len(framed) <= TRUST_SET_MAX_BYTES
    assert not all(f"targets/assignments/{shard:x}.json" in decode_trust_set(framed) for shard in range(16))
    view = fleet.view(tmp_path / "device")
    assert all(isinstance(view.resolve(ref.target), TargetInfo) for ref in refs)
    assert view.tags("pi-1") == frozenset()


def _many(shard: int) -> dict[str, tuple[str, ...]]:
    return {sha256_hex(f"{shard}/{number}".encode()): ("canary",) for number in range(150)}


def test_large_documents_and_roles_come_with_their_chunk_index(fleet: Fleet, tmp_path: Path) -> None:
    many = {number: Assignments(salt=SALT, tags=_many(number)) for number in range(3)}
    big = {f"{number:064x}": ("canary",) for number in range(1500)}
    fleet.repository.set_rollouts(
        RolloutsDocument(fleet=FLEET), {**many, 7: Assignments(salt=SALT, tags=big)}
    )
    view = fleet.view(tmp_path / "device")
    custom = view.documents["assignments/7.json"].custom
    assert custom is not None
    for level in custom["chunk_index"]:
        assert sha256_hex(fleet.blob(level) or b"") == level


# many writers ---------------------------------------------------------------------------------------------


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


# damage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json", "1.root.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"garbage"])
def test_damaged_metadata_is_named(fleet: Fleet, bundle: Path, name: str, content: bytes | None) -> None:
    path = fleet.folder / "repository/metadata" / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DamagedRepositoryError):
        fleet.repository.publish([bundle])


def test_a_device_of_another_fleet_refuses(fleet: Fleet, tmp_path: Path) -> None:
    other = Fleet(tmp_path / "other")
    keeper = TrustKeeper(tmp_path / "device", other.anchor, FLEET)
    with pytest.raises(PackhorseError):
        keeper.offer(decode_trust_set(fleet.repository.trust_set()), fleet.blob, Clock()())
