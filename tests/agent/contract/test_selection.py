"""Who is selected: the same answer on the device and on the host, for ever."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.contract.rollout import (
    Baseline,
    BundleRef,
    Rollout,
    RolloutsDocument,
    RolloutState,
    Selector,
)
from packhorse_agent.contract.selection import (
    DeviceFacts,
    assignment_key,
    assignment_shard,
    bucket_ppm,
    desired_in_slot,
    is_reverted,
    is_selected,
    selector_matches,
    slots_of,
)
from tests.agent.contract.strategies import devices, documents, names, rollouts, salts, tags

SALT = "0" * 32
DEVICE = DeviceFacts("d1", "raspberry-pi-5", "1.0")
NEW, OLD = (
    BundleRef(target=f"bundles/{name}", sha256=digit * 64, size_bytes=100)
    for name, digit in (("new", "1"), ("old", "2"))
)


def a_rollout(**changes: Any) -> Rollout:
    """A rollout of NEW that reaches everyone."""
    fields = {
        "id": "r1",
        "slot": "detector",
        "model": "m",
        "version": "2.0",
        "generation": 1,
        "state": RolloutState.ACTIVE,
        "salt": SALT,
        "bundles": {"raspberry-pi-5": NEW},
        "share_ppm": 1_000_000,
        "soak_s": 0,
    }
    return Rollout.model_validate({**fields, **changes})


BASELINE = Baseline(
    slot="detector",
    profile="raspberry-pi-5",
    model="m",
    version="1.0",
    rollout_id="r0",
    generation=1,
    bundle=OLD,
)


def a_document(*rollouts: Rollout, baselines: tuple[Baseline, ...] = (BASELINE,)) -> RolloutsDocument:
    return RolloutsDocument(fleet="f", rollouts=rollouts, baselines=baselines)


@pytest.mark.parametrize(("device_id", "expected"), [("d1", 112_608), ("cam-7", 32_715), ("a", 845_311)])
def test_buckets_never_change(device_id: str, expected: int) -> None:
    assert bucket_ppm(SALT, device_id) == expected


@given(salts, names)
def test_a_bucket_follows_the_documented_formula(salt: str, device_id: str) -> None:
    digest = hashlib.sha256(f"{salt}\0{device_id}".encode()).digest()
    assert bucket_ppm(salt, device_id) == int.from_bytes(digest[:8], "big") * 1_000_000 >> 64
    assert 0 <= bucket_ppm(salt, device_id) < 1_000_000


def test_a_share_reaches_about_that_share_of_a_fleet() -> None:
    reached = sum(bucket_ppm(SALT, f"device-{at}") < 100_000 for at in range(20_000))
    assert 1_800 < reached < 2_200


@given(rollouts, devices, st.integers(0, 1_000_000), tags)
def test_raising_the_reach_only_adds_devices(
    rollout: Rollout, device: DeviceFacts, more: int, tag: str
) -> None:
    wider = rollout.model_copy(
        update={
            "share_ppm": max(rollout.share_ppm, more),
            "included_tags": (*rollout.included_tags, tag),
        }
    )
    assert is_selected(wider, device) or not is_selected(rollout, device)


@given(rollouts, devices)
def test_the_whole_share_reaches_exactly_those_that_the_selector_matches(
    rollout: Rollout, device: DeviceFacts
) -> None:
    whole = rollout.model_copy(update={"share_ppm": 1_000_000})
    expected = device.profile in rollout.bundles and selector_matches(rollout.selector, device)
    assert is_selected(whole, device) == expected


@given(rollouts, devices)
def test_no_share_and_no_tag_reach_nobody(rollout: Rollout, device: DeviceFacts) -> None:
    assert not is_selected(rollout.model_copy(update={"share_ppm": 0, "included_tags": ()}), device)


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ({}, True),
        ({"profiles": ["raspberry-pi-5", "other"]}, True),
        ({"profiles": ["other"]}, False),
        ({"device_ids": ["d1"]}, True),
        ({"device_ids": ["d2"]}, False),
        ({"tags_all": ["lab"]}, True),
        ({"tags_all": ["lab", "north"]}, False),
        ({"tags_none": ["north"]}, True),
        ({"tags_none": ["lab"]}, False),
        ({"agent_minimum_version": "1.0.0"}, True),
        ({"agent_minimum_version": "1.10"}, False),
        ({"tags_all": ["lab"], "device_ids": ["d2"]}, False),
    ],
)
def test_every_part_of_a_selector_must_match(selector: dict[str, Any], matches: bool) -> None:
    device = DeviceFacts("d1", "raspberry-pi-5", "1.9", frozenset({"lab"}))
    assert selector_matches(Selector.model_validate(selector), device) is matches


@pytest.mark.parametrize(
    ("state", "has_it", "gets_new"),
    [
        (RolloutState.ACTIVE, False, True),
        (RolloutState.ACTIVE, True, True),
        (RolloutState.PAUSED, False, False),
        (RolloutState.PAUSED, True, True),
        (RolloutState.STOPPED, False, False),
        (RolloutState.STOPPED, True, True),
        (RolloutState.CANCELLED, False, False),
        (RolloutState.CANCELLED, True, True),
        (RolloutState.REVERTED, False, False),
        (RolloutState.REVERTED, True, False),
    ],
)
def test_a_rollout_that_does_not_run_takes_no_new_devices(
    state: RolloutState, has_it: bool, gets_new: bool
) -> None:
    document = a_document(a_rollout(state=state))
    desired = desired_in_slot(document, DEVICE, "detector", NEW.sha256 if has_it else OLD.sha256)
    assert desired is not None
    assert desired.bundle == (NEW if gets_new else OLD)
    assert (desired.rollout is not None) is gets_new


def test_a_device_that_no_rollout_reaches_goes_to_the_baseline() -> None:
    desired = desired_in_slot(a_document(a_rollout(share_ppm=0)), DEVICE, "detector", None)
    assert desired is not None
    assert (desired.bundle, desired.rollout_id, desired.rollout) == (OLD, "r0", None)


def test_without_rollout_and_baseline_the_device_keeps_what_it_has() -> None:
    assert desired_in_slot(a_document(baselines=()), DEVICE, "detector", NEW.sha256) is None
    assert desired_in_slot(a_document(a_rollout()), DEVICE, "another-slot", None) is None


def test_a_canary_tag_is_in_whatever_the_share() -> None:
    rollout = a_rollout(share_ppm=0, included_tags=["canary"])
    canary = DeviceFacts("d1", "raspberry-pi-5", "1.0", frozenset({"canary"}))
    assert is_selected(rollout, canary)
    assert not is_selected(rollout, DEVICE)


def test_a_tag_does_not_overrule_the_selector() -> None:
    rollout = a_rollout(share_ppm=0, included_tags=["canary"], selector={"profiles": ["other"]})
    assert not is_selected(rollout, DeviceFacts("d1", "raspberry-pi-5", "1.0", frozenset({"canary"})))


@pytest.mark.parametrize("older", [RolloutState.PAUSED, RolloutState.STOPPED, RolloutState.CANCELLED])
def test_a_revert_is_not_undone_by_an_older_rollout_of_the_same_bundle(older: RolloutState) -> None:
    reverted = a_rollout(id="r2", state=RolloutState.REVERTED)
    ended = a_rollout(state=older)
    desired = desired_in_slot(a_document(reverted, ended), DEVICE, "detector", NEW.sha256)
    assert desired is not None
    assert desired.bundle == OLD


def test_a_newer_rollout_may_bring_a_reverted_bundle_back() -> None:
    again = a_rollout(id="r3", state=RolloutState.STOPPED)
    reverted = a_rollout(id="r2", state=RolloutState.REVERTED)
    desired = desired_in_slot(a_document(again, reverted), DEVICE, "detector", NEW.sha256)
    assert desired is not None
    assert desired.bundle == NEW


def test_who_has_a_reverted_bundle_gives_it_up() -> None:
    document = a_document(a_rollout(state=RolloutState.REVERTED))
    assert is_reverted(document, DEVICE, "detector", NEW.sha256)
    assert not is_reverted(document, DEVICE, "detector", OLD.sha256)
    assert not is_reverted(document, DEVICE, "another-slot", NEW.sha256)
    assert not is_reverted(a_document(a_rollout()), DEVICE, "detector", NEW.sha256)


@given(documents, devices, st.sampled_from(["detector", "wake-word"]))
def test_a_device_is_only_ever_sent_bundles_of_its_own_profile(
    document: RolloutsDocument, device: DeviceFacts, slot: str
) -> None:
    desired = desired_in_slot(document, device, slot, None)
    if desired is None:
        return
    of_rollouts = {r.bundles[device.profile].sha256 for r in document.rollouts if device.profile in r.bundles}
    of_baselines = {b.bundle.sha256 for b in document.baselines if b.profile == device.profile}
    assert desired.bundle.sha256 in of_rollouts | of_baselines
    assert slot in slots_of(document, device)


def test_the_slots_of_a_device_are_those_of_its_rollouts_and_baselines() -> None:
    other = BASELINE.model_copy(update={"slot": "wake-word", "profile": "other"})
    document = a_document(a_rollout(slot="tracker"), baselines=(BASELINE, other))
    assert slots_of(document, DEVICE) == {"tracker", "detector"}


@given(salts, names)
def test_assignments_hide_the_device_behind_a_salted_hash(salt: str, device_id: str) -> None:
    assert assignment_key(salt, device_id) == hashlib.sha256(f"{salt}\0{device_id}".encode()).hexdigest()
    assert 0 <= assignment_shard(device_id) < 16
