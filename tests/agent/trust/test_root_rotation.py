"""New root keys, threshold 2 of 3: who has to sign before a device follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from securesystemslib.signer import CryptoSigner

from packhorse_agent.errors import UntrustedError
from packhorse_agent.trust.errors import BadSignatureError
from tests.agent.trust.devices import Device
from tests.agent.trust.simulator import (
    FleetSimulator,
)


@dataclass(frozen=True)
class Rotation:
    """Who signs the next root, and whether the device follows."""

    name: str
    signers: Callable[[list[CryptoSigner], list[CryptoSigner]], list[CryptoSigner]]
    accepted: bool


ROTATIONS = [
    Rotation("two old and two new", lambda old, new: [*old[:2], *new[:2]], True),
    Rotation("all old and all new", lambda old, new: [*old, *new], True),
    Rotation("one old is not enough", lambda old, new: [old[0], *new], False),
    Rotation("one new is not enough", lambda old, new: [*old, new[0]], False),
    Rotation("only the new ones", lambda _old, new: new, False),
    Rotation("only the old ones", lambda old, _new: old, False),
    Rotation("the same key twice is one key", lambda old, new: [old[0], old[0], *new], False),
    Rotation("nobody", lambda _old, _new: [], False),
]


@pytest.mark.parametrize("case", ROTATIONS, ids=lambda case: case.name)
def test_root_rotation(fleet: FleetSimulator, device: Device, case: Rotation) -> None:
    old = list(fleet.signers["root"])
    new = [CryptoSigner.generate_ed25519() for _ in range(3)]
    for key in old:
        fleet.root.revoke_key(key.public_key.keyid, "root")
    for key in new:
        fleet.root.add_key(key.public_key, "root")
    fleet.rotate_root(case.signers(old, new))
    if case.accepted:
        assert device.accept(fleet.publish("rollouts")).version == 2
    else:
        device.refuse(fleet.publish("rollouts"), BadSignatureError)


def test_root_rotation_by_a_device_that_was_long_away(fleet: FleetSimulator, device: Device) -> None:
    for _ in range(3):
        old = list(fleet.signers["root"])
        fleet.signers["root"] = [CryptoSigner.generate_ed25519() for _ in range(3)]
        for key in old:
            fleet.root.revoke_key(key.public_key.keyid, "root")
        for key in fleet.signers["root"]:
            fleet.root.add_key(key.public_key, "root")
        fleet.rotate_root([*old, *fleet.signers["root"]])
    assert device.accept(fleet.publish("rollouts")).version == 2


def test_root_rotation_with_a_gap(fleet: FleetSimulator, device: Device) -> None:
    """Without the root in between the new keys are strangers."""
    fleet.replace_key("timestamp")
    fleet.rotate_root()
    fleet.rotate_root()
    files = fleet.publish("rollouts")
    del files["2.root.json"]
    device.refuse(files, BadSignatureError)


def test_root_rotation_revokes_a_stolen_key(fleet: FleetSimulator, device: Device) -> None:
    stolen = fleet.signers["timestamp"]
    fleet.replace_key("timestamp")
    fleet.rotate_root()
    device.accept(fleet.publish("rollouts"))
    fleet.signers["timestamp"] = stolen
    device.refuse(fleet.publish("rollouts"), BadSignatureError)


def test_root_rotation_cannot_be_undone(fleet: FleetSimulator, device: Device) -> None:
    before = fleet.files()
    fleet.replace_key("timestamp")
    fleet.rotate_root()
    device.accept(fleet.publish("rollouts"))
    device.refuse(before, BadSignatureError)


def test_a_root_under_another_number_is_refused(fleet: FleetSimulator, device: Device) -> None:
    device.refuse({**fleet.files(), "2.root.json": fleet.roots[0]}, UntrustedError)
