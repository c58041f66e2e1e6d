"""The keys of a workspace: one PEM file each, the offline ones encrypted.

The files are PKCS #8 (RFC 5958), Ed25519, mode 0600: ``keys/NAME.pem`` with NAME one of ``root-1`` …,
``targets``, ``model-MODEL``, ``snapshot``, ``timestamp``, ``rollouts``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from packhorse_agent.store.durable import write_durable
from packhorse_agent.store.errors import storage_error
from packhorse_agent.store.files import OS_FILES, Files
from packhorse_host.repository.errors import MissingKeyError, WrongPassphraseError

Ask = Callable[[str], str]
"""Key name → its passphrase."""

ONLINE_KEYS = ("snapshot", "timestamp", "rollouts")

_MODE = 0o600
_ENCRYPTED_MARK = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


def never_ask(name: str) -> str:
    """The `Ask` of a program that has no passphrases.

    Raises:
        WrongPassphraseError: always.
    """
    raise WrongPassphraseError(f"the key {name} is encrypted and no passphrase was given")


class KeyRing:
    """Key files in one folder."""

    def __init__(self, folder: Path, disk: Files = OS_FILES) -> None:
        self._folder = folder
        self._disk = disk

    def path(self, name: str) -> Path:
        """Where a key lies, if it does."""
        return self._folder / f"{name}.pem"

    def exists(self, name: str) -> bool:
        """Whether a key is here."""
        return self.path(name).exists()

    def is_encrypted(self, name: str) -> bool:
        """Whether a key needs a passphrase; False for one that is not here."""
        return self.exists(name) and self._read(name).startswith(_ENCRYPTED_MARK)

    def create(self, name: str, passphrase: str | None) -> CryptoSigner:
        """Make a key and write it durably; None: unencrypted.

        Raises:
            StorageFullError, StorageFaultError: it could not be written.
        """
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, _encryption(passphrase))
        write_durable(self.path(name), pem, mode=_MODE, files=self._disk)
        return CryptoSigner(private)

    def signer(self, name: str, ask: Ask) -> CryptoSigner:
        """Open a key; `ask` is called only for an encrypted one.

        Raises:
            MissingKeyError: the file is not here or holds no Ed25519 key.
            WrongPassphraseError: it does not open.
        """
        pem = self._read(name)
        password = ask(name).encode() if pem.startswith(_ENCRYPTED_MARK) else None
        try:
            private = load_pem_private_key(pem, password)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            if password is not None:
                raise WrongPassphraseError(f"the passphrase does not open the key {name}") from error
            raise MissingKeyError(f"{self.path(name)} holds no private key") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise MissingKeyError(f"{self.path(name)} holds no Ed25519 key")
        return CryptoSigner(private)

    def signer_for(self, name: str, keyids: Collection[str], ask: Ask) -> CryptoSigner:
        """Open a key that has to be one of `keyids`.

        Raises:
            MissingKeyError: see `signer`, or it is another key than the metadata names.
            WrongPassphraseError: it does not open.
        """
        signer = self.signer(name, ask)
        if signer.public_key.keyid not in keyids:
            raise MissingKeyError(f"{self.path(name)} is another key than the one that the repository trusts")
        return signer

    def _read(self, name: str) -> bytes:
        try:
            return self.path(name).read_bytes()
        except FileNotFoundError as error:
            raise MissingKeyError(f"the key {name} is not here: {self.path(name)} is missing") from error
        except OSError as error:
            raise storage_error(error, str(self.path(name))) from error


def _encryption(passphrase: str | None) -> KeySerializationEncryption:
    return NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.encode())
