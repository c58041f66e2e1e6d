"""Opens keys once, and before anything is written: a wrong passphrase must find nothing half done."""

from __future__ import annotations

from collections.abc import Collection

from securesystemslib.signer import CryptoSigner

from packhorse_host.repository.keyring import Ask, KeyRing, never_ask
from packhorse_host.repository.metadata import State


class Signers:
    """Opened keys of one operation."""

    def __init__(self, keys: KeyRing, ask: Ask = never_ask) -> None:
        self._keys = keys
        self._ask = ask
        self._opened: dict[str, CryptoSigner] = {}

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

    def _open(self, name: str, keyids: Collection[str]) -> CryptoSigner:
        if name not in self._opened:
            known = self._keys.signer_for(name, keyids, self._ask) if keyids else None
            self._opened[name] = known or self._keys.signer(name, self._ask)
        return self._opened[name]
