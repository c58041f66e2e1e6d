"""The device's own Ed25519 key, and the request to be enrolled with it.

The key's file is read and written here, since the library's readers of every key format take the supervisor
2 MiB: an unencrypted Ed25519 key in PKCS #8 is a constant and 32 bytes (RFC 8410, section 7).
"""

from __future__ import annotations

import base64
import binascii
import logging
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from packhorse_agent.contract.enrolment import SigningRequest, request_message
from packhorse_agent.store.durable import write_durable
from packhorse_agent.store.errors import storage_error
from packhorse_agent.trust.errors import BadSigningRequestError, DeviceKeyError

_MODE: Final = 0o600
_PEM_HEAD: Final = b"-----BEGIN PRIVATE KEY-----"
_PEM_TAIL: Final = b"-----END PRIVATE KEY-----"
_PKCS8_HEAD: Final = bytes.fromhex("302e020100300506032b657004220420")
"""DER: version 0, the algorithm 1.3.101.112, and an octet string in an octet string for the key."""
_KEY_BYTES: Final = 32

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
        write_durable(path, _encode(private), mode=_MODE)
        return cls(private)

    @property
    def public_hex(self) -> str:
        """The raw public key, 64 hexadecimal digits."""
        return self._private.public_key().public_bytes_raw().hex()

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


def _encode(private: Ed25519PrivateKey) -> bytes:
    body = base64.b64encode(_PKCS8_HEAD + private.private_bytes_raw())
    return b"\n".join((_PEM_HEAD, body, _PEM_TAIL, b""))


def _parse(pem: bytes, path: Path) -> Ed25519PrivateKey:
    text = pem.strip()
    if not (text.startswith(_PEM_HEAD) and text.endswith(_PEM_TAIL)):
        raise _damaged(path)
    body = text[len(_PEM_HEAD) : -len(_PEM_TAIL)]
    try:
        der = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as error:
        raise _damaged(path) from error
    if len(der) != len(_PKCS8_HEAD) + _KEY_BYTES or not der.startswith(_PKCS8_HEAD):
        raise _damaged(path)
    return Ed25519PrivateKey.from_private_bytes(der[-_KEY_BYTES:])


def _damaged(path: Path) -> DeviceKeyError:
    return DeviceKeyError(
        f"{path} is no Ed25519 private key: restore it, or remove it and enrol the device anew"
    )


def _tighten(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        _log.warning("%s was readable by others; its mode is 0600 now", path)
        path.chmod(_MODE)
