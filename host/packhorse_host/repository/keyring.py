"""The keys of a workspace: one PEM file each, the offline ones encrypted.

The files are PKCS #8 (RFC 5958), Ed25519, mode 0600: ``keys/NAME.pem`` with NAME one of ``root-1`` …,
``targets``, ``model-MODEL``, ``snapshot``, ``timestamp``, ``rollouts``. While a key is replaced, the next one
lies beside it as ``NAME.next.pem``; once the metadata trusts it, it takes the name. A kill between the two is
mended when the key is used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
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
    """Key files in one folder, where new ones are made; folders `elsewhere` are searched after it."""

    def __init__(self, folder: Path, disk: Files = OS_FILES, elsewhere: Sequence[Path] = ()) -> None:
        self._folder = folder
        self._disk = disk
        self._elsewhere = tuple(elsewhere)

    def path(self, name: str) -> Path:
        """Where a key lies, or would lie."""
        places = [folder / f"{name}.pem" for folder in (self._folder, *self._elsewhere)]
        return next((one for one in places if one.exists()), places[0])

    def exists(self, name: str) -> bool:
        """Whether a key is here."""
        return self.path(name).exists()

    def is_encrypted(self, name: str) -> bool:
        """Whether a key needs a passphrase; False for one that is not here."""
        return self.exists(name) and self._read(self.path(name), name).startswith(_ENCRYPTED_MARK)

    def root_paths(self) -> list[Path]:
        """Every file that may hold a root key, in all folders."""
        folders = (self._folder, *self._elsewhere)
        return [path for folder in folders for path in sorted(folder.glob("root-*.pem"))]

    def create(self, name: str, passphrase: str | None) -> CryptoSigner:
        """Make a key and write it durably; None: unencrypted.

        Raises:
            StorageFullError, StorageFaultError: it could not be written.
        """
        return self._write(self._folder / f"{name}.pem", passphrase)

    def create_next(self, name: str, passphrase: str | None) -> CryptoSigner:
        """Make the key that is going to take the place of another; see `promote`.

        Raises:
            StorageFullError, StorageFaultError: it could not be written.
        """
        return self._write(self._next(name), passphrase)

    def promote(self, name: str) -> None:
        """Let the next key take the name; the one before is gone."""
        self._disk.rename(self._next(name), self._folder / f"{name}.pem")
        self._disk.sync_folder(self._folder)

    def discard(self, name: str) -> None:
        """Forget a key that is trusted no longer; one that is not here is no error."""
        self._disk.remove(self._folder / f"{name}.pem")

    def discard_next(self, name: str) -> None:
        """Forget a key that was not trusted yet; one that is not here is no error."""
        self._disk.remove(self._next(name))

    def recover(self, name: str, keyids: Collection[str], ask: Ask) -> None:
        """Finish what a kill interrupted: a next key that is trusted already takes its name.

        Raises:
            MissingKeyError, WrongPassphraseError: see `signer`.
        """
        if self._next(name).exists() and self._open(self._next(name), name, ask).public_key.keyid in keyids:
            self.promote(name)

    def root_signers(self, keyids: Collection[str], ask: Ask) -> Iterator[CryptoSigner]:
        """Open, one after the other, the root keys at hand that are among `keyids`.

        Raises:
            MissingKeyError, WrongPassphraseError: see `signer`.
        """
        for path in self.root_paths():
            signer = self._open(path, path.stem, ask)
            if signer.public_key.keyid in keyids:
                yield signer

    def signer(self, name: str, ask: Ask) -> CryptoSigner:
        """Open a key; `ask` is called only for an encrypted one.

        Raises:
            MissingKeyError: the file is not here or holds no Ed25519 key.
            WrongPassphraseError: it does not open.
        """
        return self._open(self.path(name), name, ask)

    def signer_for(self, name: str, keyids: Collection[str], ask: Ask) -> CryptoSigner:
        """Open a key that has to be one of `keyids`.

        Raises:
            MissingKeyError: see `signer`, or it is another key than the metadata names.
            WrongPassphraseError: it does not open.
        """
        signer = self.signer(name, ask)
        if signer.public_key.keyid not in keyids:
            self.recover(name, keyids, ask)
            signer = self.signer(name, ask)
        if signer.public_key.keyid not in keyids:
            raise MissingKeyError(f"{self.path(name)} is another key than the one that the repository trusts")
        return signer

    def _next(self, name: str) -> Path:
        return self._folder / f"{name}.next.pem"

    def _write(self, path: Path, passphrase: str | None) -> CryptoSigner:
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, _encryption(passphrase))
        write_durable(path, pem, mode=_MODE, files=self._disk)
        return CryptoSigner(private)

    def _open(self, path: Path, name: str, ask: Ask) -> CryptoSigner:
        pem = self._read(path, name)
        password = ask(name).encode() if pem.startswith(_ENCRYPTED_MARK) else None
        try:
            private = load_pem_private_key(pem, password)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            if password is not None:
                raise WrongPassphraseError(f"the passphrase does not open the key {name}") from error
            raise MissingKeyError(f"{path} holds no private key") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise MissingKeyError(f"{path} holds no Ed25519 key")
        return CryptoSigner(private)

    def _read(self, path: Path, name: str) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise MissingKeyError(f"the key {name} is not here: {path} is missing") from error
        except OSError as error:
            raise storage_error(error, str(path)) from error


def _encryption(passphrase: str | None) -> KeySerializationEncryption:
    return NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.encode())
