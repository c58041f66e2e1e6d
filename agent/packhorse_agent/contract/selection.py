"""Who is selected: computed on the device, and by the host with the same code to preview it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from packhorse_agent.contract.base import version_key
from packhorse_agent.contract.limits import ASSIGNMENT_SHARDS
from packhorse_agent.contract.rollout import (
    Baseline,
    BundleRef,
    Rollout,
    RolloutsDocument,
    RolloutState,
    Selector,
)


@dataclass(frozen=True)
class DeviceFacts:
    """What selectors may read."""

    device_id: str
    profile: str
    agent_version: str
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Desired:
    """What a device should run in a slot: a rollout's bundle, or the baseline (`rollout` is None)."""

    slot: str
    model: str
    version: str
    bundle: BundleRef
    rollout_id: str
    generation: int
    rollout: Rollout | None


def bucket_ppm(salt: str, device_id: str) -> int:
    """A device's place in a rollout, 0 to 999,999: the share that reaches it is larger than this."""
    digest = hashlib.sha256(salt.encode() + b"\0" + device_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") * 1_000_000 >> 64


def assignment_shard(device_id: str) -> int:
    """The shard (0-15) that holds a device's tags."""
    return hashlib.sha256(device_id.encode()).digest()[0] % ASSIGNMENT_SHARDS


def assignment_key(salt: str, device_id: str) -> str:
    """The key of a device inside its shard."""
    return hashlib.sha256(salt.encode() + b"\0" + device_id.encode()).hexdigest()


def selector_matches(selector: Selector, facts: DeviceFacts) -> bool:
    """Whether a device may be in a rollout at all."""
    return (
        (not selector.profiles or facts.profile in selector.profiles)
        and (not selector.device_ids or facts.device_id in selector.device_ids)
        and facts.tags.issuperset(selector.tags_all)
        and facts.tags.isdisjoint(selector.tags_none)
        and version_key(facts.agent_version) >= version_key(selector.agent_minimum_version)
    )


def is_selected(rollout: Rollout, facts: DeviceFacts) -> bool:
    """Whether the present reach of a rollout includes a device.

    Law: adding tags to `included_tags` or raising `share_ppm` only adds devices.
    """
    if facts.profile not in rollout.bundles or not selector_matches(rollout.selector, facts):
        return False
    by_tag = not facts.tags.isdisjoint(rollout.included_tags)
    return by_tag or bucket_ppm(rollout.salt, facts.device_id) < rollout.share_ppm


def desired_in_slot(
    document: RolloutsDocument, facts: DeviceFacts, slot: str, current_sha256: str | None
) -> Desired | None:
    """What a device should run in `slot`; None: keep what is there.

    `current_sha256` is the bundle that is being deployed or is active in the slot: a paused, stopped or
    cancelled rollout keeps the devices that it has reached, and takes no new ones. The document lists the
    newest rollout first: once one was reverted, no older one keeps its bundle in place.
    """
    for rollout in document.rollouts:
        if rollout.slot != slot:
            continue
        if rollout.state is RolloutState.REVERTED and _carries(rollout, facts, current_sha256):
            current_sha256 = None
        elif is_selected(rollout, facts) and _holds(rollout, facts, current_sha256):
            return _from_rollout(rollout, facts)
    for baseline in document.baselines:
        if baseline.slot == slot and baseline.profile == facts.profile:
            return _from_baseline(baseline)
    return None


def slots_of(document: RolloutsDocument, facts: DeviceFacts) -> frozenset[str]:
    """The slots that the document says anything about for a device."""
    by_rollout = {rollout.slot for rollout in document.rollouts if is_selected(rollout, facts)}
    return frozenset(by_rollout | {base.slot for base in document.baselines if base.profile == facts.profile})


def is_reverted(document: RolloutsDocument, facts: DeviceFacts, slot: str, current_sha256: str) -> bool:
    """Whether a device should give up the bundle that it has in `slot`, wherever it goes from there."""
    return any(
        rollout.state is RolloutState.REVERTED
        and rollout.slot == slot
        and _carries(rollout, facts, current_sha256)
        for rollout in document.rollouts
    )


def _carries(rollout: Rollout, facts: DeviceFacts, sha256: str | None) -> bool:
    return facts.profile in rollout.bundles and rollout.bundles[facts.profile].sha256 == sha256


def _holds(rollout: Rollout, facts: DeviceFacts, current_sha256: str | None) -> bool:
    if rollout.state is RolloutState.ACTIVE:
        return True
    return rollout.state is not RolloutState.REVERTED and _carries(rollout, facts, current_sha256)


def _from_rollout(rollout: Rollout, facts: DeviceFacts) -> Desired:
    bundle = rollout.bundles[facts.profile]
    return Desired(
        rollout.slot, rollout.model, rollout.version, bundle, rollout.id, rollout.generation, rollout
    )


def _from_baseline(base: Baseline) -> Desired:
    return Desired(base.slot, base.model, base.version, base.bundle, base.rollout_id, base.generation, None)
