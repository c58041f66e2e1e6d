"""The device's key: made once, kept private, never replaced by itself; and what it signs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
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


def pem(private: Ed25519PrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@given(seed=st.binary(min_size=32, max_size=32))
def test_the_file_is_the_one_that_every_other_program_writes_and_reads(
    tmp_path_factory: pytest.TempPathFactory, seed: bytes
) -> None:
    path = tmp_path_factory.mktemp("key") / "device.key"
    private = Ed25519PrivateKey.from_private_bytes(seed)
    path.write_bytes(pem(private))
    assert DeviceKey.load_or_create(path).public_hex == private.public_key().public_bytes_raw().hex()
    made = path.with_name("made.key")
    key = DeviceKey.load_or_create(made)
    read = load_pem_private_key(made.read_bytes(), password=None)
    assert isinstance(read, Ed25519PrivateKey)
    assert (pem(read), read.public_key().public_bytes_raw().hex()) == (made.read_bytes(), key.public_hex)


def broken_keys() -> list[bytes]:
    whole = pem(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    head, body, tail = whole.splitlines()
    return [
        b"",
        b"garbage",
        head + b"\n",
        head + b"\n" + tail,
        whole.replace(body, body[:-4]),
        whole.replace(body, body[:-4] + b"!!!!"),
        whole.replace(body, body + body),
        other_kind(),
    ]


@pytest.mark.parametrize("content", broken_keys())
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
