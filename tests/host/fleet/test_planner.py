"""The planner as tables and laws."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from packhorse_agent.contract.rollout import RolloutsDocument, Selector
from packhorse_agent.contract.selection import desired_in_slot, is_reverted, is_selected
from packhorse_agent.contract.states import DeploymentState, FailureReason
from packhorse_host.fleet.model import (
    FINAL,
    FleetDevice,
    LatestDeployment,
    PhaseSpec,
    RolloutProgress,
    RolloutRecord,
)
from packhorse_host.fleet.planner import (
    Decision,
    as_document_rollout,
    build_document,
    count_phase,
    plan,
    preview,
    selected_devices,
)
from tests.host.fleet.makers import ALL, CANARY, PHONE, PI, START_S, bundle, device, record, said, spec

IN_TIME_S, LATE_S = START_S + 50.0, START_S + 150.0


def step(
    current: RolloutRecord, devices: list[FleetDevice], reports: list[LatestDeployment], now_s: float
) -> Decision:
    latest = {report.device_id: report for report in reports}
    return plan(current, count_phase(current, devices, latest, now_s), now_s)


TWO = [device("a", "canary"), device("b", "canary"), device("c")]

CASES: list[tuple[str, dict[str, Any], list[LatestDeployment], float, str, int]] = [
    ("nobody has answered", {}, [], IN_TIME_S, "running", 0),
    ("one of two committed", {}, [said("a", "committed")], IN_TIME_S, "running", 0),
    ("both committed", {}, [said("a", "committed"), said("b", "committed")], IN_TIME_S, "running", 1),
    ("others' words count for nothing", {}, [said("c", "failed")], IN_TIME_S, "running", 0),
    ("one failed", {}, [said("a", "failed")], IN_TIME_S, "paused", 0),
    ("one was rejected", {}, [said("a", "rejected")], IN_TIME_S, "paused", 0),
    ("failure stops", {"on_failure": "stop"}, [said("a", "failed")], IN_TIME_S, "stopped", 0),
    ("failure cancels", {"on_failure": "cancel"}, [said("a", "failed")], IN_TIME_S, "cancelled", 0),
    ("failure reverts", {"on_failure": "revert"}, [said("a", "failed")], IN_TIME_S, "reverted", 0),
    (
        "half may fail",
        {"max_failure_percent": 50},
        [said("a", "failed"), said("b", "committed")],
        IN_TIME_S,
        "running",
        1,
    ),
    (
        "more than half may not",
        {"max_failure_percent": 50},
        [said("a", "failed"), said("b", "failed")],
        IN_TIME_S,
        "paused",
        0,
    ),
    (
        "all may fail, but one has to commit",
        {"max_failure_percent": 100},
        [said("a", "failed"), said("b", "failed")],
        IN_TIME_S,
        "paused",
        0,
    ),
    ("late: who never answered is left behind", {}, [said("a", "committed")], LATE_S, "running", 1),
    (
        "late: who downloads is left behind",
        {},
        [said("a", "committed"), said("b", "downloading")],
        LATE_S,
        "running",
        1,
    ),
    (
        "late: who prepares is left behind",
        {},
        [said("a", "committed"), said("b", "preparing")],
        LATE_S,
        "running",
        1,
    ),
    ("late: all are left behind", {}, [], LATE_S, "paused", 0),
    (
        "late: who went silent in the probe has failed",
        {},
        [said("a", "committed"), said("b", "probing", START_S - 300)],
        LATE_S,
        "paused",
        0,
    ),
    (
        "late: who went silent while serving has failed",
        {},
        [said("a", "committed"), said("b", "active", START_S + 100)],
        LATE_S,
        "paused",
        0,
    ),
    (
        "late: who has soaked for less than it should goes on",
        {},
        [said("a", "committed"), said("b", "active", LATE_S - 1)],
        LATE_S,
        "running",
        0,
    ),
    (
        "in time: who is silent in the probe may go on",
        {},
        [said("a", "committed"), said("b", "probing", START_S - 300)],
        IN_TIME_S,
        "running",
        0,
    ),
    ("paused rests", {"progress": "paused"}, [said("a", "failed")], LATE_S, "paused", 0),
    (
        "the last phase completes",
        {"phase": 1},
        [said(one, "committed") for one in "abc"],
        IN_TIME_S,
        "completed",
        1,
    ),
]


@pytest.mark.parametrize(
    ("changes", "reports", "now_s", "progress", "phase"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_a_phase_goes_on_or_ends(
    changes: dict[str, Any], reports: list[LatestDeployment], now_s: float, progress: str, phase: int
) -> None:
    decision = step(record(**changes), TWO, reports, now_s)
    assert (decision.record.progress.value, decision.record.phase) == (progress, phase)


def test_what_changed_is_said_and_what_did_not_is_not() -> None:
    assert step(record(), TWO, [], IN_TIME_S).audit == ""
    failed = step(record(), TWO, [said("a", "failed", reason=FailureReason.PROBE_FAILED)], IN_TIME_S)
    assert "a: probe_failed" in failed.audit
    assert "1 of 2" in failed.record.reason
    silent = step(record(), TWO, [said("b", "probing", 0.0)], LATE_S)
    assert "b: no report after probing" in silent.record.reason


def test_a_phase_that_selects_nobody_waits_for_approval() -> None:
    held = step(record(), [device("c")], [], IN_TIME_S)
    assert held.record.progress is RolloutProgress.PAUSED
    assert "selects nobody" in held.record.reason
    assert "--approve-empty" in held.record.reason
    passed = step(record(approve_empty=True), [device("c")], [], IN_TIME_S)
    assert passed.record.phase == 1


SIMULATED = [device("a", "canary", simulated=True), device("c", simulated=True)]


def test_a_rollout_over_simulated_devices_alone_is_fed_by_them() -> None:
    assert step(record(), SIMULATED, [said("a", "committed")], IN_TIME_S).record.phase == 1


@pytest.mark.parametrize("word", ["committed", "failed", "active"])
def test_beside_a_real_device_simulated_ones_count_for_nothing(word: str) -> None:
    devices = [*SIMULATED, device("real", "canary")]
    count = count_phase(record(), devices, {"a": said("a", word)}, IN_TIME_S)
    assert (count.selected, count.committed, count.failed, count.waiting) == (1, 0, 0, 1)
    assert count.set_aside == 1


def test_a_canary_of_simulated_devices_never_opens_the_way_to_real_ones() -> None:
    held = step(record(), [*SIMULATED, device("real")], [said("a", "committed")], IN_TIME_S)
    assert held.record.progress is RolloutProgress.PAUSED
    assert "simulated" in held.record.reason


def test_a_device_that_has_not_said_what_it_is_holds_up_simulated_ones() -> None:
    devices = [*SIMULATED, device("new", simulated=None)]
    for now_s, progress in ((IN_TIME_S, "running"), (LATE_S, "paused")):
        decision = step(record(), devices, [said("a", "committed")], now_s)
        assert (decision.record.progress.value, decision.record.phase) == (progress, 0)
    assert (
        step(
            record(), [*SIMULATED, device("new", simulated=True)], [said("a", "committed")], IN_TIME_S
        ).record.phase
        == 1
    )


def test_a_real_rollout_does_not_wait_for_unknown_devices_forever() -> None:
    devices = [device("a", "canary"), device("new", "canary", simulated=None)]
    assert step(record(), devices, [said("a", "committed")], IN_TIME_S).record.phase == 0
    assert step(record(), devices, [said("a", "committed")], LATE_S).record.phase == 1


names = st.text("abcdefgh0123456789-", min_size=1, max_size=8).map("d{}".format)
fleets = st.lists(
    st.builds(
        lambda name, tags, profile, simulated: device(name, *tags, profile=profile, simulated=simulated),
        names,
        st.sets(st.sampled_from(["canary", "lab", "field"])),
        st.sampled_from([PI, PHONE, "other"]),
        st.sampled_from([True, False, None]),
    ),
    max_size=20,
    unique_by=lambda one: one.device_id,
)
selectors = st.builds(
    Selector,
    profiles=st.sampled_from([(), (PI,)]),
    tags_all=st.sampled_from([(), ("lab",)]),
    tags_none=st.sampled_from([(), ("field",)]),
    agent_minimum_version=st.sampled_from(["", "0.1", "9.0"]),
)
phases = st.lists(
    st.tuples(st.integers(0, 1_000_000), st.sets(st.sampled_from(["canary", "lab", "field"]))),
    min_size=1,
    max_size=5,
).map(
    lambda parts: tuple(
        PhaseSpec(name=f"p{at}", share_ppm=share, tags=tuple(sorted(tags)), soak_s=5.0, deadline_s=50.0)
        for at, (share, tags) in enumerate(
            zip(sorted(share for share, _ in parts), (tags for _, tags in parts), strict=True)
        )
    )
)


@given(fleets, selectors, phases)
def test_each_phase_only_adds_devices(
    devices: list[FleetDevice], selector: Selector, chosen: tuple[PhaseSpec, ...]
) -> None:
    reached = preview(record(selector=selector, phases=chosen), devices)
    for before, after in itertools.pairwise(reached):
        assert set(before) <= set(after)


@given(fleets, selectors, phases, st.integers(0, 4))
def test_the_preview_is_what_each_device_finds_itself(
    devices: list[FleetDevice], selector: Selector, chosen: tuple[PhaseSpec, ...], at: int
) -> None:
    current = record(selector=selector, phases=chosen, phase=min(at, len(chosen) - 1))
    document = RolloutsDocument.model_validate_json(build_document("farm", [current]).model_dump_json())
    selected = {one.device_id for one in selected_devices(current, devices)}
    for one in devices:
        assert is_selected(document.rollouts[0], one.facts) == (one.device_id in selected)
        wanted = desired_in_slot(document, one.facts, "detector", None)
        assert (wanted is not None) == (one.device_id in selected)


states = st.sampled_from(list(DeploymentState))


@given(fleets, phases, st.data(), st.sampled_from([0.0, 30.0, 100.0]), st.booleans())
def test_a_rollout_ends_or_waits_with_a_reason(
    devices: list[FleetDevice],
    chosen: tuple[PhaseSpec, ...],
    data: st.DataObject,
    percent: float,
    approved: bool,
) -> None:
    """Whatever devices say or do not say: by the deadlines and the longest stays it is over."""
    current = record(phases=chosen, max_failure_percent=percent, approve_empty=approved)
    words = {one.device_id: data.draw(st.none() | states) for one in devices}
    now_s = START_S
    for _ in range(4 * len(chosen)):
        reports = [said(name, word.value, START_S) for name, word in words.items() if word]
        now_s += 4000.0
        current = step(current, devices, reports, now_s).record
        if current.progress is not RolloutProgress.RUNNING:
            break
    assert current.progress in FINAL | {RolloutProgress.PAUSED}
    assert current.reason or current.progress is RolloutProgress.COMPLETED


@given(fleets, phases, st.data())
def test_simulated_devices_never_decide_over_real_ones(
    devices: list[FleetDevice], chosen: tuple[PhaseSpec, ...], data: st.DataObject
) -> None:
    current = record(phases=chosen)
    reached = selected_devices(current.model_copy(update={"phase": len(chosen) - 1}), devices)
    if all(one.simulated for one in reached):
        return
    real = [said(one.device_id, data.draw(states).value) for one in devices if not one.simulated]
    fake = [said(one.device_id, data.draw(states).value) for one in devices if one.simulated]
    other = [said(one.device_id, data.draw(states).value) for one in devices if one.simulated]
    for now_s in (IN_TIME_S, LATE_S + 10_000):
        with_fake, with_other = (step(current, devices, [*real, *words], now_s) for words in (fake, other))
        assert with_fake == with_other


def read(document: RolloutsDocument, one: FleetDevice, current: str | None) -> str | None:
    wanted = desired_in_slot(document, one.facts, "detector", current)
    return wanted.version if wanted else None


@pytest.mark.parametrize(
    ("progress", "fresh", "reached", "reverted"),
    [
        ("running", "1.0", "1.0", False),
        ("paused", None, "1.0", False),
        ("stopped", None, "1.0", False),
        ("cancelled", None, "1.0", False),
        ("reverted", None, None, True),
    ],
)
def test_what_devices_make_of_an_interrupted_rollout(
    progress: str, fresh: str | None, reached: str | None, reverted: bool
) -> None:
    document = build_document("farm", [record(progress, phase=1)])
    one = device("x")
    assert read(document, one, None) == fresh
    assert read(document, one, bundle().sha256) == reached
    assert is_reverted(document, one.facts, "detector", bundle().sha256) == reverted


def test_a_completed_rollout_over_all_becomes_the_baseline_and_takes_the_place_of_older_ones() -> None:
    older = record("stopped", id="old", version="0.9")
    document = build_document("farm", [older, record("completed", phase=1)])
    assert document.rollouts == ()
    assert [(base.profile, base.version) for base in document.baselines] == [(PHONE, "1.0"), (PI, "1.0")]
    assert read(document, device("x"), None) == "1.0"


def test_a_newer_rollout_leaves_those_that_it_does_not_reach_where_they_are() -> None:
    """A tenth of the devices is on 2.0; the canary of 3.0 must not push them back to 1.0."""
    part = PhaseSpec(name="part", tags=("lab",))
    records = [
        record("completed", phase=1),
        record("completed", id="second", version="2.0", phases=(part,)),
        record(id="third", version="3.0"),
    ]
    document = build_document("farm", records)
    assert read(document, device("x", "lab"), bundle("2.0").sha256) == "2.0"
    assert read(document, device("x", "lab", "canary"), bundle("2.0").sha256) == "3.0"
    assert read(document, device("x"), bundle("1.0").sha256) == "1.0"


def test_who_was_away_while_a_rollout_was_reverted_hears_of_it_during_the_next() -> None:
    records = [record("reverted", phase=1), record(id="second", version="2.0")]
    document = build_document("farm", records)
    assert is_reverted(document, device("x").facts, "detector", bundle("1.0").sha256)
    assert read(document, device("x", "canary"), bundle("1.0").sha256) == "2.0"


def test_reverting_a_completed_rollout_brings_the_baseline_before_back() -> None:
    records = [record("completed", phase=1), record("reverted", id="second", version="2.0", phase=1)]
    document = build_document("farm", records)
    assert read(document, device("x"), bundle("2.0").sha256) == "1.0"
    assert is_reverted(document, device("x").facts, "detector", bundle("2.0").sha256)


def test_another_profile_or_slot_keeps_what_it_has() -> None:
    records = [
        record("completed", phase=1, bundles={PI: bundle("1.0"), PHONE: bundle("1.0", PHONE)}),
        record("stopped", id="second", version="2.0", phase=1),
        record("completed", id="third", version="3.0", phase=1, bundles={PI: bundle("3.0")}),
        record("completed", id="fourth", version="4.0", phase=1, slot="wake-word"),
    ]
    document = build_document("farm", records)
    versions = {(base.slot, base.profile): base.version for base in document.baselines}
    assert versions[("detector", PI)] == "3.0"
    assert versions[("detector", PHONE)] == "1.0"
    assert versions[("wake-word", PI)] == "4.0"
    assert [(one.id, set(one.bundles)) for one in document.rollouts] == [("second", {PHONE})]


@pytest.mark.parametrize(
    "changes",
    [
        {"phases": (CANARY,)},
        {"selector": Selector(tags_none=("field",))},
        {"selector": Selector(agent_minimum_version="0.2")},
        {"selector": Selector(profiles=(PI,))},
    ],
    ids=["a canary alone", "without some", "newer agents", "one profile"],
)
def test_a_rollout_that_leaves_devices_out_makes_no_baseline(changes: dict[str, Any]) -> None:
    phase = len(changes.get("phases", (CANARY, ALL))) - 1
    document = build_document("farm", [record("completed", phase=phase, **changes)])
    assert document.baselines == ()
    assert document.rollouts[0].state.value == "active", "who comes later gets it still"


def test_a_phase_by_tag_after_one_by_share_keeps_the_share() -> None:
    tenth = PhaseSpec(name="tenth", share_ppm=100_000)
    rollout = as_document_rollout(record(phases=(tenth, CANARY), phase=1))
    assert (rollout.share_ppm, rollout.included_tags) == (100_000, ("canary",))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"phases": (ALL, PhaseSpec(name="less", share_ppm=5))}, "must not fall"),
        ({"phases": (CANARY, CANARY)}, "distinct names"),
        ({"phases": ()}, "at least 1"),
        ({"salt": "short"}, "pattern"),
        ({"bundles": {}}, "at least 1"),
        ({"max_failure_percent": 101}, "less than or equal"),
    ],
)
def test_an_order_that_cannot_be_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        spec(**changes)
