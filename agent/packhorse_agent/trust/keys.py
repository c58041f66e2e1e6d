"""The device's own Ed25519 key, and the request to be enrolled with it."""

from __future__ import annotations

import logging
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from packhorse_agent.contract.enrolment import SigningRequest, request_message
from packhorse_agent.store.durable import write_durable
from packhorse_agent.store.errors import storage_error
from packhorse_agent.trust.errors import BadSigningRequestError, DeviceKeyError

_MODE = 0o600

_log = logging.getLogger(__name__)


class DeviceKey:
    """An Ed25519 key that never leaves the device; kept as unencrypted PKCS #8 PEM with mode 0600."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def load_or_create(cls, path: Path) -> DeviceKey:
        """The key in `path`; made and written durably where there is none.

        A damaged key is never replaced by itself: the fleet would no longer know the device.

        Raises:
            DeviceKeyError: the file holds no Ed25519 private key.
            StorageFullError, StorageFaultError: it can be neither read nor written.
        """
        try:
            pem = path.read_bytes()
        except FileNotFoundError:
            return cls._create(path)
        except OSError as error:
            raise storage_error(error, str(path)) from error
        _tighten(path)
        return cls(_parse(pem, path))

    @classmethod
    def _create(cls, path: Path) -> DeviceKey:
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_durable(path, pem, mode=_MODE)
        return cls(private)

    @property
    def public_hex(self) -> str:
        """The raw public key, 64 hexadecimal digits."""
        return self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign(self, message: bytes) -> bytes:
        """A 64-byte Ed25519 signature (RFC 8032). Law: `verify_ed25519(k.public_hex, k.sign(m), m)`."""
        return self._private.sign(message)


def verify_ed25519(public_hex: str, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is the key's over `message`; False too for a key or signature of a wrong form."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex)).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def make_signing_request(key: DeviceKey, device_id: str, profile: str) -> SigningRequest:
    """Ask to be enrolled, with proof of having the key.

    Raises:
        ValueError: a name that the contract does not allow.
    """
    signature = key.sign(request_message(device_id, profile, key.public_hex))
    return SigningRequest(
        device_id=device_id, profile=profile, public_key=key.public_hex, signature=signature.hex()
    )


def check_signing_request(request: SigningRequest) -> None:
    """Check the proof in a request.

    Raises:
        BadSigningRequestError: the key in it did not sign it.
    """
    message = request_message(request.device_id, request.profile, request.public_key)
    if not verify_ed25519(request.public_key, bytes.fromhex(request.signature), message):
        raise BadSigningRequestError(
            f"the request of {request.device_id} is not signed by its own key: "
            "make it anew on the device with `packhorse-agent request`"
        )


def _parse(pem: bytes, path: Path) -> Ed25519PrivateKey:
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _damaged(path) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise _damaged(path)
    return private


def _damaged(path: Path) -> DeviceKeyError:
    return DeviceKeyError(
        f"{path} is no Ed25519 private key: restore it, or remove it and enrol the device anew"
    )


def _tighten(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        _log.warning("%s was readable by others; its mode is 0600 now", path)
        path.chmod(_MODE)
