"""Tags as signed targets, sharded and under hashed ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from packhorse_agent.contract.rollout import Assignments
from packhorse_agent.contract.selection import assignment_key, assignment_shard
from packhorse_host.fleet.model import FleetDevice


def build_assignments(fleet: str, devices: Iterable[FleetDevice]) -> dict[int, Assignments]:
    """Shard → tags of its devices; a shard without any tag has no entry.

    The salt keeps tables for one fleet from reading another's; it stays the same so that nothing changes
    without a reason.
    """
    shards: dict[int, dict[str, tuple[str, ...]]] = {}
    for device in devices:
        if device.tags:
            shard = assignment_shard(device.device_id)
            key = assignment_key(_salt(fleet, shard), device.device_id)
            shards.setdefault(shard, {})[key] = tuple(sorted(device.tags))
    return {shard: Assignments(salt=_salt(fleet, shard), tags=tags) for shard, tags in sorted(shards.items())}


def _salt(fleet: str, shard: int) -> str:
    return hashlib.sha256(f"assignments/{fleet}/{shard}".encode()).hexdigest()[:32]
