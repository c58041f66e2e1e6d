"""Opens keys once, and before anything is written: a wrong passphrase must find nothing half done."""

from __future__ import annotations

from collections.abc import Collection

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Role

from packhorse_host.repository.errors import MissingKeyError
from packhorse_host.repository.keyring import Ask, KeyRing, never_ask
from packhorse_host.repository.metadata import State


class Signers:
    """Opened keys of one operation."""

    def __init__(self, keys: KeyRing, ask: Ask = never_ask) -> None:
        self._keys = keys
        self._ask = ask
        self._opened: dict[str, CryptoSigner] = {}
        self._root: dict[str, CryptoSigner] = {}
        self._fresh: list[str] = []

    def of_role(self, role: str, state: State) -> CryptoSigner:
        """The key that signs a role.

        Raises:
            MissingKeyError: it is not here, or it is not the one that the repository trusts.
            WrongPassphraseError: it does not open.
        """
        return self._open(role, state.delegated_keyids(role))

    def of_model(self, role: str, state: State) -> CryptoSigner:
        """The key of a model's role; of a new model it is made, encrypted when the targets key is.

        Raises:
            MissingKeyError, WrongPassphraseError: see `of_role`.
        """
        keyids = state.delegated_keyids(role)
        if not keyids and not self._keys.exists(role):
            passphrase = self._ask(role) if self._keys.is_encrypted("targets") else None
            self._opened[role] = self._keys.create(role, passphrase)
        return self._open(role, keyids)

    def of_root(self, role: Role) -> list[CryptoSigner]:
        """As many keys as must sign for a root with this role.

        Raises:
            MissingKeyError: not enough of them are at hand.
            WrongPassphraseError: one does not open.
        """
        wanted = set(role.keyids)
        if len(wanted & self._root.keys()) < role.threshold:
            for signer in self._keys.root_signers(wanted, self._ask):
                self._root[signer.public_key.keyid] = signer
                if len(wanted & self._root.keys()) >= role.threshold:
                    break
        found = [signer for keyid, signer in sorted(self._root.items()) if keyid in wanted]
        if len(found) < role.threshold:
            raise MissingKeyError(
                f"{role.threshold} root keys must sign and {len(found)} of them are here: "
                "name the folders of the others with --keys"
            )
        return found

    def replace(self, name: str, keyids: Collection[str], passphrase: str | None) -> CryptoSigner:
        """Make a key that takes the place of another once `keep_fresh` says so.

        Raises:
            StorageFullError, StorageFaultError: it could not be written.
        """
        self._keys.recover(name, keyids, self._ask)
        self._fresh.append(name)
        signer = self._keys.create_next(name, passphrase)
        if name.startswith("root-"):
            self._root[signer.public_key.keyid] = signer
        else:
            self._opened[name] = signer
        return signer

    def keep_fresh(self) -> None:
        """The metadata trusts the keys that were made: they take their names."""
        while self._fresh:
            self._keys.promote(self._fresh.pop())

    def discard_fresh(self) -> None:
        """Nothing came of it: forget the keys that were made."""
        while self._fresh:
            self._keys.discard_next(self._fresh.pop())

    def _open(self, name: str, keyids: Collection[str]) -> CryptoSigner:
        known = self._opened.get(name)
        # Between opening and signing another process may have replaced the key.
        if known is None or (keyids and known.public_key.keyid not in keyids):
            opened = self._keys.signer_for(name, keyids, self._ask) if keyids else None
            known = self._opened[name] = opened or self._keys.signer(name, self._ask)
        return known
