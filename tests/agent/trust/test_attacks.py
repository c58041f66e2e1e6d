"""One test for each attack on the way down, by name. The broker can do most, stolen keys the rest."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.limits import METADATA_MAX_BYTES, TRUST_SET_MAX_BYTES
from packhorse_agent.contract.rollout import RolloutsDocument
from packhorse_agent.contract.trustset import decode_trust_set, encode_trust_set
from packhorse_agent.errors import UntrustedError
from packhorse_agent.trust.errors import (
    BadSignatureError,
    ExpiredMetadataError,
    IncompleteMetadataError,
    MalformedMetadataError,
    MixedMetadataError,
    OlderMetadataError,
    OversizedMetadataError,
    WrongFleetError,
)
from packhorse_agent.trust.keeper import TrustKeeper
from packhorse_agent.trust.ports import TargetInfo
from packhorse_agent.trust.view import TrustedView
from tests.agent.trust.devices import Device
from tests.agent.trust.simulator import (
    FLEET,
    MANIFEST,
    MANIFEST_PATH,
    NOW,
    ROLLOUTS,
    FleetSimulator,
    describe,
    no_blobs,
    sha256,
)
from tests.fakes.disk import FastFiles

# rollback -------------------------------------------------------------------------------------------------


def test_rollback_of_the_whole_set(fleet: FleetSimulator, device: Device) -> None:
    old = fleet.files()
    device.accept(fleet.publish("rollouts"))
    device.refuse(old, OlderMetadataError)


def test_rollback_of_the_timestamp_alone(fleet: FleetSimulator, device: Device) -> None:
    old = fleet.signed["timestamp"]
    newer = fleet.publish("rollouts")
    device.accept(newer)
    device.refuse({**newer, "timestamp.json": old}, OlderMetadataError)


def test_rollback_of_the_snapshot_by_a_stolen_timestamp_key(fleet: FleetSimulator, device: Device) -> None:
    old_meta = fleet.timestamp.snapshot_meta
    device.accept(fleet.publish("rollouts"))
    fleet.timestamp.version += 1
    fleet.timestamp.snapshot_meta = old_meta
    fleet.sign_timestamp()
    device.refuse(fleet.files(), OlderMetadataError)


@pytest.mark.parametrize("role", ["targets", "rollouts", "model-detector"])
def test_rollback_of_a_role_by_stolen_online_keys(fleet: FleetSimulator, device: Device, role: str) -> None:
    old_meta, old_bytes = fleet.snapshot.meta[f"{role}.json"], fleet.signed[role]
    device.accept(fleet.publish("targets", "rollouts", "model-detector"))
    fleet.snapshot.version += 1
    fleet.timestamp.version += 1
    fleet.snapshot.meta[f"{role}.json"] = old_meta
    fleet.signed[role] = old_bytes
    fleet.role(role).version -= 1
    fleet.sign_snapshot()
    device.refuse(fleet.files(), OlderMetadataError)


def test_rollback_by_taking_a_role_away(fleet: FleetSimulator, device: Device) -> None:
    fleet.snapshot.version += 1
    fleet.timestamp.version += 1
    del fleet.snapshot.meta["model-detector.json"]
    fleet.sign_snapshot()
    device.refuse(fleet.files(), OlderMetadataError)


def test_rollback_is_refused_after_a_restart_too(fleet: FleetSimulator, tmp_path: Path) -> None:
    old = fleet.files()
    Device(fleet, tmp_path).accept(fleet.publish("rollouts"))
    with pytest.raises(OlderMetadataError):
        TrustKeeper(tmp_path, fleet.roots[0], FLEET, FastFiles()).offer(old, no_blobs, NOW)


# freeze ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "days"), [("timestamp", 1), ("rollouts", 3), ("snapshot", 7), ("targets", 365), ("root", 365)]
)
def test_freeze(fleet: FleetSimulator, tmp_path: Path, role: str, days: int) -> None:
    """Every role has a date, and past it the device refuses, whatever the other roles say."""
    far = fleet.at(days=days + 1000)
    for name in {"timestamp", "snapshot", "targets", "rollouts"} - {role}:
        signed = {"timestamp": fleet.timestamp, "snapshot": fleet.snapshot}.get(name) or fleet.role(name)
        signed.expires = far
    if role != "root":
        fleet.root.expires = far
        fleet.rotate_root()
    files = fleet.publish("targets", "rollouts")
    keeper = TrustKeeper(tmp_path, fleet.roots[0], FLEET, FastFiles())
    with pytest.raises(ExpiredMetadataError):
        keeper.offer(files, no_blobs, NOW + timedelta(days=days, seconds=1))
    assert isinstance(keeper.offer(files, no_blobs, NOW + timedelta(days=days, seconds=-1)), TrustedView)


def test_freeze_ends_with_fresh_metadata(fleet: FleetSimulator, device: Device) -> None:
    device.refuse(fleet.files(), ExpiredMetadataError, days=2)
    fleet.timestamp.expires = fleet.at(days=4)
    fleet.roles["rollouts"].expires = fleet.at(days=4)
    assert device.accept(fleet.publish("rollouts"), days=2).version == 2


# fast-forward ---------------------------------------------------------------------------------------------


def test_fast_forward_ends_with_rotated_keys(fleet: FleetSimulator, device: Device) -> None:
    """Stolen online keys push the versions to the end; new keys in a new root bring the fleet back."""
    honest = (fleet.timestamp.version, fleet.snapshot.version, fleet.roles["rollouts"].version)
    fleet.timestamp.version = fleet.snapshot.version = fleet.roles["rollouts"].version = 2**31 - 2
    device.accept(fleet.publish("rollouts"))
    fleet.timestamp.version, fleet.snapshot.version, fleet.roles["rollouts"].version = honest
    for role in ("timestamp", "snapshot", "rollouts"):
        fleet.replace_key(role)
    fleet.rotate_root()
    view = device.accept(fleet.publish("targets", "rollouts"))
    assert view.version == honest[0] + 1


# mix-and-match --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["snapshot", "targets", "rollouts", "model-detector"])
def test_mix_and_match(fleet: FleetSimulator, device: Device, part: str) -> None:
    """An old part under the name of the new one, all of it signed."""
    old = fleet.signed[part]
    files = fleet.publish("targets", "rollouts", "model-detector")
    name = next(name for name in files if name.endswith(f".{part}.json"))
    device.refuse({**files, name: old}, MixedMetadataError)


def test_mix_and_match_of_the_rollouts_document(fleet: FleetSimulator, device: Device) -> None:
    old = fleet.documents[ROLLOUTS]
    assert fleet.rollouts_document is not None
    fleet.rollouts_document = RolloutsDocument(fleet=FLEET, baselines=(baseline(),))
    device.refuse({**fleet.publish("rollouts"), f"targets/{ROLLOUTS}": old}, MixedMetadataError)


def test_mix_and_match_of_the_assignments(fleet: FleetSimulator, device: Device) -> None:
    fleet.tags = {"pi-1": ("canary",)}
    files = fleet.publish("rollouts")
    path = next(name for name in files if "assignments" in name)
    device.refuse({**files, path: files[path].replace(b"canary", b"normal")}, MixedMetadataError)


def test_mix_and_match_by_a_lying_blob_source(fleet: FleetSimulator, device: Device) -> None:
    files = {name: data for name, data in fleet.publish("rollouts").items() if "rollouts" not in name}
    with pytest.raises(MixedMetadataError):
        device.keeper.offer(files, lambda _sha256: b"{}", NOW)


# endless data ---------------------------------------------------------------------------------------------


def test_endless_data_in_the_framing() -> None:
    with pytest.raises(MalformedMessageError):
        decode_trust_set(b"PT" + bytes(TRUST_SET_MAX_BYTES))


@pytest.mark.parametrize("name", ["timestamp.json", "2.root.json", "1.snapshot.json", f"targets/{ROLLOUTS}"])
def test_endless_data_in_one_file(fleet: FleetSimulator, device: Device, name: str) -> None:
    device.refuse({**fleet.files(), name: b" " * (METADATA_MAX_BYTES + 1)}, OversizedMetadataError)


def test_endless_data_behind_a_signed_length(fleet: FleetSimulator, device: Device) -> None:
    files = fleet.publish("rollouts")
    name = f"{fleet.snapshot.version}.snapshot.json"
    device.refuse({**files, name: files[name] + b" " * 1000}, OversizedMetadataError)


def test_endless_data_is_not_pulled_either(fleet: FleetSimulator, device: Device) -> None:
    """Even a signed length is bounded before anything is asked for."""
    fleet.timestamp.version += 1
    fleet.timestamp.snapshot_meta.version += 1
    fleet.timestamp.snapshot_meta.length = METADATA_MAX_BYTES + 1
    fleet.sign_timestamp()
    device.refuse(fleet.files("snapshot"), OversizedMetadataError)


def test_endless_data_by_a_chain_of_roots(fleet: FleetSimulator, device: Device) -> None:
    for _ in range(70):
        fleet.rotate_root()
    with pytest.raises(ValueError, match="trust set"):
        encode_trust_set(fleet.files())


# wrong device ---------------------------------------------------------------------------------------------


def test_wrong_fleet(fleet: FleetSimulator, device: Device) -> None:
    fleet.rollouts_document = RolloutsDocument(fleet="other")
    device.refuse(fleet.publish("rollouts"), WrongFleetError)


def test_wrong_device_of_another_repository(device: Device) -> None:
    other = FleetSimulator()
    device.refuse(other.publish("rollouts"), BadSignatureError)


def test_wrong_profile_is_another_target(fleet: FleetSimulator, device: Device) -> None:
    """A bundle is signed for the profile in its path: nothing answers for it under another one."""
    view = device.accept(fleet.publish("rollouts"))
    assert view.resolve(MANIFEST_PATH.replace("raspberry-pi-5", "android-arm64")) is None


# stolen rollouts key --------------------------------------------------------------------------------------


def baseline() -> dict[str, object]:
    bundle = {"target": MANIFEST_PATH, "sha256": sha256(b"evil"), "size_bytes": 4}
    names = {"slot": "detector", "profile": "raspberry-pi-5", "model": "detector", "version": "1.2"}
    return {**names, "rollout_id": "r1", "generation": 1, "bundle": bundle}


def test_stolen_rollouts_key_cannot_sign_bundles(fleet: FleetSimulator, device: Device) -> None:
    evil = "bundles/detector/6.6/raspberry-pi-5/fp32/manifest.json"
    fleet.roles["rollouts"].targets[evil] = describe(evil, b"evil")
    signed = dict(fleet.roles["rollouts"].targets)
    fleet.publish("rollouts")
    fleet.roles["rollouts"].targets = signed
    fleet.signed["rollouts"] = fleet.sign("rollouts", fleet.roles["rollouts"])
    fleet.snapshot.meta["rollouts.json"] = fleet.meta(2, fleet.signed["rollouts"])
    fleet.sign_snapshot()
    assert device.accept(fleet.files()).resolve(evil) is None


def test_stolen_rollouts_key_cannot_replace_a_bundle(fleet: FleetSimulator, device: Device) -> None:
    """The document may say what it likes: the digest is the one that the release key signed."""
    fleet.rollouts_document = RolloutsDocument.model_validate({"fleet": FLEET, "baselines": [baseline()]})
    target = device.accept(fleet.publish("rollouts")).resolve(MANIFEST_PATH)
    assert isinstance(target, TargetInfo)
    assert target.sha256 == sha256(MANIFEST) != baseline_digest(fleet)


def baseline_digest(fleet: FleetSimulator) -> str:
    assert fleet.rollouts_document is not None
    return fleet.rollouts_document.baselines[0].bundle.sha256


def test_stolen_rollouts_key_cannot_bring_back_an_old_release(fleet: FleetSimulator, device: Device) -> None:
    """The minimum is signed by the release key; all online keys together cannot lower it."""
    fleet.roles["model-detector"].unrecognized_fields["packhorse_minimum_version"] = "1.3"
    device.accept(fleet.publish("model-detector"))
    fleet.rollouts_document = RolloutsDocument.model_validate({"fleet": FLEET, "baselines": [baseline()]})
    target = device.accept(fleet.publish("rollouts")).resolve(MANIFEST_PATH)
    assert isinstance(target, TargetInfo)
    assert target.minimum_version == "1.3"


def test_stolen_online_keys_cannot_lower_the_minimum_version(fleet: FleetSimulator, device: Device) -> None:
    fleet.roles["model-detector"].unrecognized_fields["packhorse_minimum_version"] = "1.3"
    device.accept(fleet.publish("model-detector"))
    fleet.roles["model-detector"].unrecognized_fields["packhorse_minimum_version"] = "1.0"
    fleet.signers["model-detector"] = fleet.signers["rollouts"]
    assert device.accept(fleet.publish("model-detector")).resolve(MANIFEST_PATH) is None


# re-signed by a stranger ----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "rollouts"])
def test_resigned_by_a_stranger(fleet: FleetSimulator, device: Device, role: str) -> None:
    fleet.signers[role] = [CryptoSigner.generate_ed25519()]
    device.refuse(fleet.publish("targets", "rollouts"), BadSignatureError)


def test_a_model_role_resigned_by_a_stranger_answers_for_nothing(
    fleet: FleetSimulator, device: Device
) -> None:
    fleet.signers["model-detector"] = [CryptoSigner.generate_ed25519()]
    assert device.accept(fleet.publish("model-detector")).resolve(MANIFEST_PATH) is None


def test_a_key_of_another_role_does_not_sign(fleet: FleetSimulator, device: Device) -> None:
    fleet.signers["snapshot"] = fleet.signers["timestamp"]
    device.refuse(fleet.publish("rollouts"), BadSignatureError)


@pytest.mark.parametrize("part", ["timestamp.json", "snapshot.json", "targets.json"])
def test_unsigned(fleet: FleetSimulator, device: Device, part: str) -> None:
    files = fleet.publish("targets", "rollouts")
    name = next(name for name in files if name.endswith(part))
    content = json.loads(files[name])
    content["signatures"] = []
    device.refuse({**files, name: json.dumps(content).encode()}, UntrustedError)


# what is missing or broken --------------------------------------------------------------------------------


def test_a_set_without_timestamp(fleet: FleetSimulator, device: Device) -> None:
    device.refuse(fleet.files("timestamp"), IncompleteMetadataError)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"{" * 5000, b"\x00\xff", b'{"signed": 1}'])
@pytest.mark.parametrize("name", ["timestamp.json", "2.root.json"])
def test_garbage(fleet: FleetSimulator, device: Device, name: str, content: bytes) -> None:
    device.refuse({**fleet.files(), name: content}, MalformedMetadataError)


def test_signed_garbage_as_rollouts_document(fleet: FleetSimulator, device: Device) -> None:
    fleet.publish("rollouts")
    fleet.documents[ROLLOUTS] = b'{"fleet": 7}'
    fleet.roles["rollouts"].targets[ROLLOUTS] = describe(ROLLOUTS, fleet.documents[ROLLOUTS])
    fleet.signed["rollouts"] = fleet.sign("rollouts", fleet.roles["rollouts"])
    fleet.snapshot.meta["rollouts.json"] = fleet.meta(2, fleet.signed["rollouts"])
    fleet.sign_snapshot()
    device.refuse(fleet.files(), MalformedMetadataError)
