"""How the roles of a repository stand: until when they hold, and which of their keys are at hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from packhorse_agent.contract.base import WireDocument
from packhorse_agent.trust.release import minimum_version
from packhorse_host.repository.keyring import ONLINE_KEYS, KeyRing
from packhorse_host.repository.metadata import State

WARN_WITHIN = timedelta(days=30)
"""From when on people are told that they have to renew an offline role."""


class RoleStanding(WireDocument):
    """One role."""

    role: str
    version: int
    expires: datetime
    online: bool
    """Whether a running controller signs it anew by itself."""
    threshold: int
    keys: int
    """How many of `keys` must sign is `threshold`."""
    key_files: tuple[str, ...]
    """Key files under the role's name that are at hand."""
    encrypted: bool
    minimum_version: str | None
    """Of a model's role: the oldest version that devices may install; None for other roles."""


def role_standings(state: State, keys: KeyRing) -> list[RoleStanding]:
    """All roles: root, targets, the models, then what is signed online."""
    models = sorted(state.roles.keys() - {"targets", "rollouts"})
    top: dict[str, Root | Targets | Snapshot | Timestamp] = {
        "root": state.root,
        "targets": state.roles["targets"],
        **{role: state.roles[role] for role in models},
        "rollouts": state.roles["rollouts"],
        "snapshot": state.snapshot,
        "timestamp": state.timestamp,
    }
    return [_standing(role, signed, state, keys) for role, signed in top.items()]


def warnings(standings: Iterable[RoleStanding], now: datetime) -> dict[str, str]:
    """Role → what a person has to do, for roles that have expired and offline ones that soon will."""
    found = {}
    for one in standings:
        left = one.expires - now
        date = f"{one.expires:%Y-%m-%d %H:%M} UTC"
        if one.online and left <= timedelta(0):
            found[one.role] = f"{one.role} expired on {date}; `packhorse serve` signs it anew while it runs"
        elif left <= timedelta(0):
            text = "devices install nothing until you run"
            found[one.role] = f"{one.role} expired on {date}; {text} `packhorse trust renew {one.role}`"
        elif not one.online and left <= WARN_WITHIN:
            text = f"{one.role} expires in {left.days} days, on {date}; renew it with"
            found[one.role] = f"{text} `packhorse trust renew {one.role}`"
    return found


def due(standings: Iterable[RoleStanding], now: datetime, within: timedelta) -> Sequence[str]:
    """Offline roles that expire within a time, or have."""
    return [one.role for one in standings if not one.online and one.expires - now <= within]


def _standing(
    role: str, signed: Root | Targets | Snapshot | Timestamp, state: State, keys: KeyRing
) -> RoleStanding:
    files = [str(path) for path in keys.root_paths()] if role == "root" else [str(keys.path(role))]
    at_hand = [file for file in files if role == "root" or keys.exists(role)]
    name = "root-1" if role == "root" else role
    return RoleStanding(
        role=role,
        version=signed.version,
        expires=signed.expires,
        online=role in ONLINE_KEYS,
        threshold=state.root.roles["root"].threshold if role == "root" else 1,
        keys=len(state.delegated_keyids(role)),
        key_files=tuple(at_hand),
        encrypted=keys.is_encrypted(name),
        minimum_version=minimum_version(state.roles[role]) if role.startswith("model-") else None,
    )
