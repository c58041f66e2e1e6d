"""What becomes of a bundle that serves and was damaged on the disk."""

from __future__ import annotations

import pytest

from packhorse_agent.contract.states import DeploymentState, FailureReason
from packhorse_agent.deploy import events as ev
from packhorse_agent.deploy.machine import advance
from packhorse_agent.deploy.mending import CHECK_PAUSE_S
from packhorse_agent.deploy.model import Attempt, SlotState
from packhorse_agent.deploy.step import Step
from tests.agent.deploy.test_machine import committed, desired, run

ACTIVE = Attempt.of(desired("1"))
DAMAGED = ev.ActiveChecked(ACTIVE, "model.onnx: damaged")
WHOLE = ev.ActiveChecked(ACTIVE, "")


def failing(times: int = 2, state: SlotState | None = None, now_s: float = 100.0) -> Step:
    return run(state or committed("1"), *[ev.ActiveFailed("it does not load")] * times, now_s=now_s)


def checks(step: Step) -> list[ev.Effect]:
    return [effect for effect in step.effects if isinstance(effect, ev.CheckActive)]


def test_one_failure_makes_no_file_suspect() -> None:
    assert checks(failing(1)) == []


@pytest.mark.parametrize("times", [2, 3, 10])
def test_repeated_failures_have_the_files_checked_once(times: int) -> None:
    assert checks(failing(times)) == [ev.CheckActive(ACTIVE)]


def test_it_goes_on_trying_meanwhile() -> None:
    assert isinstance(failing(2).effects[1], ev.StartActive)


def test_a_bundle_that_fails_with_whole_files_is_checked_again_much_later() -> None:
    state = run(failing(3).state, WHOLE, now_s=101.0).state
    soon = failing(2, state, now_s=100.0 + CHECK_PAUSE_S - 1)
    assert checks(soon) == []
    assert checks(failing(2, soon.state, now_s=100.0 + CHECK_PAUSE_S + 1)) == [ev.CheckActive(ACTIVE)]


def test_what_is_damaged_is_fetched_again_checked_again_and_served() -> None:
    damaged = run(failing().state, DAMAGED)
    assert damaged.effects == [ev.FetchActive(ACTIVE)]
    fetched = run(damaged.state, ev.ActiveFetched(ACTIVE))
    assert fetched.effects == [ev.CheckActive(ACTIVE)]
    whole = run(fetched.state, WHOLE)
    assert whole.effects == [ev.StartActive(ACTIVE)]
    assert whole.state.active == ACTIVE and whole.state.active_committed


def test_damage_that_shows_only_behind_a_damaged_manifest_is_fetched_too() -> None:
    damaged = run(failing().state, DAMAGED, ev.ActiveFetched(ACTIVE), DAMAGED)
    assert damaged.effects[-1] == ev.FetchActive(ACTIVE)


def test_damage_and_mending_are_reported_of_the_committed_bundle() -> None:
    step = run(failing().state, DAMAGED, ev.ActiveFetched(ACTIVE), WHOLE)
    assert [(one.state, one.reason) for one in step.changes] == [
        (DeploymentState.COMMITTED, FailureReason.DIGEST_MISMATCH),
        (DeploymentState.COMMITTED, None),
    ]
    assert "model.onnx: damaged" in step.changes[0].detail
    assert step.state.deployment is not None
    assert step.state.deployment.detail == "what was damaged on the disk has been fetched again"


def test_another_deployment_is_not_touched() -> None:
    under_way = run(committed("1"), ev.Wanted(desired("2"))).state
    step = run(failing(2, under_way).state, DAMAGED)
    assert step.state.deployment == under_way.deployment
    assert [one.attempt for one in step.changes] == [ACTIVE]


def test_a_fetch_that_fails_is_reported_and_tried_again_later() -> None:
    damaged = run(failing().state, DAMAGED).state
    lost = ev.ActiveFetchFailed(ACTIVE, FailureReason.DOWNLOAD_NOT_FOUND, "the host has none")
    failed = run(damaged, lost, now_s=200.0)
    assert failed.changes[-1].reason is FailureReason.DOWNLOAD_NOT_FOUND
    assert checks(failing(1, failed.state, now_s=210.0)) == []
    assert checks(failing(2, failed.state, now_s=200.0 + CHECK_PAUSE_S)) == [ev.CheckActive(ACTIVE)]


def test_while_it_is_fetched_nothing_is_checked_again() -> None:
    damaged = run(failing().state, DAMAGED).state
    assert checks(failing(5, damaged, now_s=100.0 + 2 * CHECK_PAUSE_S)) == []


def test_after_a_restart_of_the_agent_it_begins_anew() -> None:
    damaged = run(failing().state, DAMAGED).state
    booted = run(damaged, ev.Booted(), now_s=1.0).state
    assert checks(failing(2, booted, now_s=2.0)) == [ev.CheckActive(ACTIVE)]


@pytest.mark.parametrize(
    "echo",
    [
        ev.ActiveChecked(Attempt.of(desired("9")), "damaged"),
        ev.ActiveFetched(Attempt.of(desired("9"))),
        ev.ActiveFetchFailed(Attempt.of(desired("9")), FailureReason.STORAGE_FULL, "full"),
        ev.ActiveFetched(ACTIVE),
        ev.ActiveFetchFailed(ACTIVE, FailureReason.STORAGE_FULL, "full"),
        WHOLE,
    ],
)
def test_echoes_change_nothing(echo: ev.Event) -> None:
    state = failing().state
    step = advance(state, echo, 100.0)
    assert (step.state, step.effects, step.changes) == (state, [], [])
