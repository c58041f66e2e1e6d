"""The states of a deployment form the graph that is documented."""

from __future__ import annotations

import pytest

from packhorse_agent.contract.states import DEADLINES_S, RESTING, TRANSITIONS, DeploymentState

S = DeploymentState


def reachable(start: DeploymentState) -> set[DeploymentState]:
    found: set[DeploymentState] = set()
    open_ends = [start]
    while open_ends:
        state = open_ends.pop()
        if state not in found:
            found.add(state)
            open_ends += TRANSITIONS[state]
    return found


def test_every_state_says_what_may_follow() -> None:
    assert set(TRANSITIONS) == set(DeploymentState)
    assert all(TRANSITIONS.values())


def test_every_state_can_be_reached_from_idle() -> None:
    assert reachable(S.IDLE) == set(DeploymentState)


@pytest.mark.parametrize("state", DeploymentState)
def test_every_state_leads_to_rest(state: DeploymentState) -> None:
    assert reachable(state) & RESTING


def test_from_preparing_on_a_failure_passes_through_rolling_back() -> None:
    for state in (S.PREPARING, S.PROBING, S.ACTIVE):
        assert S.FAILED not in TRANSITIONS[state]
        assert S.ROLLING_BACK in TRANSITIONS[state]
    assert TRANSITIONS[S.ROLLING_BACK] == {S.FAILED}


def test_nothing_is_committed_that_was_not_probed_and_active() -> None:
    assert {state for state, after in TRANSITIONS.items() if S.COMMITTED in after} == {S.ACTIVE}
    assert {state for state, after in TRANSITIONS.items() if S.ACTIVE in after} == {S.PROBING}
    assert {state for state, after in TRANSITIONS.items() if S.PROBING in after} == {S.PREPARING}


def test_every_running_state_has_a_deadline_here_or_in_the_rollout() -> None:
    set_by_rollout_or_operator = {S.QUEUED, S.DOWNLOADING, S.ACTIVE}
    assert set(DEADLINES_S) == set(DeploymentState) - RESTING - set_by_rollout_or_operator
    assert all(deadline_s > 0 for deadline_s in DEADLINES_S.values())
