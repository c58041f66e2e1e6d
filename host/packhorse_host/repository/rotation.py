"""Renewing roles and replacing keys: who has to sign for it, and what is signed anew.

The keys of root, targets, snapshot and timestamp stand in the root, so that the root keys sign for a change;
those of the models and of the rollouts stand in targets. The old key of a role is not needed, unless it is
the root's own: a key that is lost can be replaced like one that was stolen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tuf.api.metadata import Key, Root, Targets

from packhorse_host.errors import NotFoundError
from packhorse_host.repository.founding import ROOT_KEYS_MAX, check_root_plan
from packhorse_host.repository.keyring import ONLINE_KEYS
from packhorse_host.repository.metadata import State
from packhorse_host.repository.signers import Signers
from packhorse_host.repository.transaction import Transaction

IN_ROOT = ("root", "targets", "snapshot", "timestamp")


@dataclass(frozen=True)
class Rotation:
    """What is to be replaced, and what comes instead.

    Raises:
        ConfigError: the numbers of root keys do not fit.
    """

    roles: tuple[str, ...]
    root_keys: int
    root_threshold: int
    passphrase: str | None
    """Of new offline keys; None: unencrypted. Online keys never are encrypted."""

    def __post_init__(self) -> None:
        check_root_plan(self.root_keys, self.root_threshold)

    def surplus_keys(self) -> list[str]:
        """Names of root keys that there may have been before and that have no successor."""
        above = range(self.root_keys + 1, ROOT_KEYS_MAX + 1) if "root" in self.roles else ()
        return [f"root-{number}" for number in above]


def open_keys_to_renew(roles: Collection[str], state: State, signers: Signers) -> None:
    """Open what has to sign while nothing is locked or written.

    Raises:
        NotFoundError: there is no such role.
        MissingKeyError, WrongPassphraseError: a key that has to sign is not here or does not open.
    """
    _check_roles(roles, state)
    for role in roles:
        if role == "root":
            signers.of_root(state.root.roles[role])
        else:
            signers.of_role(role, state)


def renew(roles: Collection[str], change: Transaction) -> None:
    """Sign roles anew as they are."""
    for role in roles:
        if role == "root":
            change.root()
        elif role in change.state.roles:  # snapshot and timestamp are signed with every change
            change.role(role)


def open_keys_to_rotate(rotation: Rotation, state: State, signers: Signers) -> None:
    """Open what has to sign while nothing is locked or written.

    Raises:
        NotFoundError: there is no such role.
        MissingKeyError, WrongPassphraseError: a key that has to sign is not here or does not open.
    """
    _check_roles(rotation.roles, state)
    if any(role in IN_ROOT for role in rotation.roles):
        signers.of_root(state.root.roles["root"])
    if any(role not in IN_ROOT for role in rotation.roles) and "targets" not in rotation.roles:
        signers.of_role("targets", state)


def rotate(rotation: Rotation, change: Transaction) -> None:
    """Make new keys and put them in the place of the old ones."""
    for role in rotation.roles:
        passphrase = None if role in ONLINE_KEYS else rotation.passphrase
        if role == "root":
            _rotate_root(rotation, change)
        elif role in IN_ROOT:
            _replace(change.root(), role, [_new_key(role, passphrase, change)])
            if role == "targets":
                change.role(role)
        else:
            _replace(change.role("targets"), role, [_new_key(role, passphrase, change)])
            change.role(role)


def _check_roles(roles: Collection[str], state: State) -> None:
    known = (*IN_ROOT, *sorted(state.roles.keys() - {"targets"}))
    for role in roles:
        if role not in known:
            raise NotFoundError(f"there is no role {role}; there are {', '.join(known)}")


def _rotate_root(rotation: Rotation, change: Transaction) -> None:
    root = change.root()
    names = [f"root-{number}" for number in range(1, rotation.root_keys + 1)]
    keyids = list(root.roles["root"].keyids)
    fresh = [(name, change.signers.replace(name, keyids, rotation.passphrase)) for name in names]
    _replace(root, "root", [signer.public_key for _, signer in fresh])
    root.roles["root"].threshold = rotation.root_threshold


def _new_key(role: str, passphrase: str | None, change: Transaction) -> Key:
    keyids = change.state.delegated_keyids(role)
    return change.signers.replace(role, keyids, passphrase).public_key


def _replace(delegator: Root | Targets, role: str, keys: Sequence[Key]) -> None:
    for key in keys:
        delegator.add_key(key, role)
    fresh = {key.keyid for key in keys}
    for keyid in [one for one in _keyids(delegator, role) if one not in fresh]:
        delegator.revoke_key(keyid, role)


def _keyids(delegator: Root | Targets, role: str) -> list[str]:
    return list(delegator.get_delegated_role(role).keyids)
