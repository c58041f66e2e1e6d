"""The device's key: made once, kept private, never replaced by itself; and what it signs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.store.errors import StorageFaultError
from packhorse_agent.trust.errors import BadSigningRequestError, DeviceKeyError
from packhorse_agent.trust.keys import (
    DeviceKey,
    check_signing_request,
    make_signing_request,
    verify_ed25519,
)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> DeviceKey:
    return DeviceKey.load_or_create(tmp_path_factory.mktemp("key") / "device.key")


def test_a_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    first = DeviceKey.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert DeviceKey.load_or_create(path).public_hex == first.public_hex
    assert DeviceKey.load_or_create(tmp_path / "other").public_hex != first.public_hex


def test_a_key_that_others_could_read_is_shut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "device.key"
    DeviceKey.load_or_create(path)
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        DeviceKey.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert "readable by others" in caplog.text


def other_kind() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\n", other_kind()])
def test_a_damaged_key_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "device.key"
    path.write_bytes(content)
    with pytest.raises(DeviceKeyError, match=r"device\.key"):
        DeviceKey.load_or_create(path)
    assert path.read_bytes() == content


def test_a_key_that_cannot_be_read_is_a_fault_of_the_environment(tmp_path: Path) -> None:
    with pytest.raises(StorageFaultError):
        DeviceKey.load_or_create(tmp_path)


@given(message=st.binary(max_size=200), other=st.binary(max_size=200))
def test_a_signature_is_over_one_message(key: DeviceKey, message: bytes, other: bytes) -> None:
    signature = key.sign(message)
    assert verify_ed25519(key.public_hex, signature, message)
    assert verify_ed25519(key.public_hex, signature, other) == (message == other)


@given(public=st.text(max_size=70), signature=st.binary(max_size=70))
def test_anything_else_is_no_signature(public: str, signature: bytes) -> None:
    assert not verify_ed25519(public, signature, b"message")


def test_a_signing_request_proves_the_key(key: DeviceKey) -> None:
    check_signing_request(make_signing_request(key, "pi-1", "raspberry-pi-5"))


@pytest.mark.parametrize(
    "change",
    [
        {"device_id": "pi-2"},
        {"profile": "android-arm64"},
        {"public_key": "0" * 64},
        {"signature": "0" * 128},
    ],
)
def test_a_changed_signing_request_is_refused(key: DeviceKey, change: dict[str, str]) -> None:
    request = make_signing_request(key, "pi-1", "raspberry-pi-5").model_copy(update=change)
    with pytest.raises(BadSigningRequestError, match="packhorse-agent request"):
        check_signing_request(request)


@pytest.mark.parametrize("device_id", ["", "PI", "a/b", "../x", "a" * 64])
def test_a_name_that_cannot_be_is_not_requested(key: DeviceKey, device_id: str) -> None:
    with pytest.raises(ValueError, match="device_id"):
        make_signing_request(key, device_id, "raspberry-pi-5")
