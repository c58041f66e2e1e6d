"""The deployment state machine: what a device may never do, whatever happens and in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from packhorse_agent.contract.messages import ProbeResult
from packhorse_agent.contract.rollout import BundleRef, Rollout, RolloutState
from packhorse_agent.contract.selection import Desired
from packhorse_agent.contract.states import DEADLINES_S, DeploymentState, FailureReason
from packhorse_agent.deploy import events as ev
from packhorse_agent.deploy.machine import CRASH_LIMIT, MAX_TRIES, advance, next_deadline_s
from packhorse_agent.deploy.model import Attempt, SlotState
from packhorse_agent.deploy.step import Step

S = DeploymentState
SOAK_S = 10.0


def desired(version: str, *, generation: int = 1, rollout_id: str = "") -> Desired:
    bundle = BundleRef(target=f"bundles/m/{version}", sha256=version[0] * 64, size_bytes=100)
    rollout = Rollout(
        id=rollout_id or f"r{version}",
        slot="classifier",
        model="m",
        version=version,
        generation=generation,
        state=RolloutState.ACTIVE,
        salt="0" * 32,
        bundles={"p": bundle},
        soak_s=SOAK_S,
        download_deadline_s=1000.0,
    )
    return Desired("classifier", "m", version, bundle, rollout.id, generation, rollout)


def probe(passed: bool) -> ProbeResult:
    return ProbeResult(
        passed=passed,
        sqnr_db=30.0,
        agreement_percent=100.0,
        bit_exact=True,
        vectors=4,
        latency_p50_us=10.0,
        detail="" if passed else "SQNR 3 dB is below 27 dB",
    )


TO_PROBING: tuple[ev.Event, ...] = (ev.Fetched(), ev.Verified(), ev.CandidateLoaded())
TO_ACTIVE: tuple[ev.Event, ...] = (*TO_PROBING, ev.CandidateProbed(probe(True)), ev.CandidateServing())


def run(state: SlotState, *events: ev.Event, now_s: float = 0.0) -> Step:
    """Apply events in order; the last step carries all effects and changes."""
    total = Step(state, now_s)
    for event in events:
        step = advance(total.state, event, now_s)
        total = Step(step.state, now_s, total.effects + step.effects, total.changes + step.changes)
    return total


def committed(version: str = "1") -> SlotState:
    soaked = run(SlotState(slot="classifier"), ev.Wanted(desired(version)), *TO_ACTIVE).state
    return run(soaked, ev.Tick(), now_s=SOAK_S).state


def committed_over_standby() -> SlotState:
    soaked = run(committed("1"), ev.Wanted(desired("2")), *TO_ACTIVE).state
    return run(soaked, ev.Tick(), now_s=SOAK_S).state


def test_the_good_way_passes_every_state_in_order() -> None:
    step = run(SlotState(slot="classifier"), ev.Wanted(desired("1")), *TO_ACTIVE)
    final = run(step.state, ev.Tick(), now_s=SOAK_S)
    assert [one.state for one in step.changes + final.changes] == [
        S.QUEUED,
        S.DOWNLOADING,
        S.VERIFYING,
        S.STAGED,
        S.PREPARING,
        S.PROBING,
        S.ACTIVE,
        S.COMMITTED,
    ]
    assert final.state.active is not None and final.state.active.version == "1"
    assert final.state.active_committed


def test_nothing_is_handed_over_before_the_probe_passed() -> None:
    step = run(SlotState(slot="classifier"), ev.Wanted(desired("1")), *TO_PROBING)
    assert ev.HandOver() not in step.effects
    assert step.state.active is None


def test_a_failed_probe_leaves_what_serves_alone() -> None:
    before = committed("1")
    step = run(before, ev.Wanted(desired("2")), *TO_PROBING, ev.CandidateProbed(probe(False)))
    assert step.state.active == before.active
    assert step.changes[-1].state is S.FAILED
    assert step.changes[-1].reason is FailureReason.PROBE_FAILED
    assert "27 dB" in step.changes[-1].detail
    assert step.effects[-1] == ev.DropCandidate()


def test_a_failed_attempt_is_made_again_only_in_a_newer_generation() -> None:
    failed = run(committed("1"), ev.Wanted(desired("2")), *TO_PROBING, ev.CandidateProbed(probe(False))).state
    assert run(failed, ev.Wanted(desired("2"))).effects == []
    again = run(failed, ev.Wanted(desired("2", generation=2)))
    assert [type(one) for one in again.effects] == [ev.Fetch]


def test_a_crash_during_soak_rolls_back_to_the_standby() -> None:
    soaking = run(committed("1"), ev.Wanted(desired("2")), *TO_ACTIVE).state
    crashed = run(soaking, ev.ActiveFailed("signal 11"))
    assert crashed.changes[-1].state is S.ROLLING_BACK
    assert [type(one) for one in crashed.effects] == [ev.StartCandidate]
    back = run(crashed.state, ev.CandidateLoaded(), ev.CandidateServing())
    assert back.state.active is not None and back.state.active.version == "1"
    assert back.changes[-1].state is S.FAILED
    assert back.changes[-1].reason is FailureReason.WORKER_CRASHED


def test_a_committed_bundle_is_restarted_until_it_loops() -> None:
    state = committed_over_standby()
    for _ in range(CRASH_LIMIT - 1):
        step = run(state, ev.ActiveFailed("signal 11"), now_s=100.0)
        assert isinstance(step.effects[0], ev.StartActive)
        state = step.state
    step = run(state, ev.ActiveFailed("signal 11"), now_s=101.0)
    assert step.changes[-1].state is S.ROLLING_BACK


def test_rare_crashes_never_roll_back() -> None:
    state = committed_over_standby()
    for day in range(10):
        step = run(state, ev.ActiveFailed("signal 11"), now_s=86400.0 * (day + 1))
        assert [type(one) for one in step.effects] == [ev.StartActive]
        state = step.state


def test_giving_up_without_a_standby_leaves_nothing_serving_and_says_so() -> None:
    step = run(committed("1"), ev.GiveUpActive(FailureReason.REVERTED, "reverted by the fleet"))
    assert step.state.active is None
    assert ev.DropActive() in step.effects
    assert step.changes[-1].reason is FailureReason.REVERTED


def test_the_bundle_that_serves_is_adopted_by_a_new_rollout_without_a_restart() -> None:
    step = run(committed("1"), ev.Wanted(desired("1", rollout_id="later")))
    assert step.effects == []
    assert [one.state for one in step.changes] == [S.COMMITTED]
    assert step.changes[0].attempt.rollout_id == "later"


def test_adoption_is_reported_once() -> None:
    adopted = run(committed("1"), ev.Wanted(desired("1", rollout_id="later"))).state
    assert run(adopted, ev.Wanted(desired("1", rollout_id="later"))).changes == []


def test_a_refused_bundle_is_rejected_once_and_never_fetched() -> None:
    refusal = (FailureReason.BELOW_MINIMUM_VERSION, "1 is below 2")
    step = run(
        SlotState(slot="classifier"), ev.Wanted(desired("1"), refusal), ev.Wanted(desired("1"), refusal)
    )
    assert [one.state for one in step.changes] == [S.REJECTED]
    assert step.effects == []


@pytest.mark.parametrize("events", [(), (ev.Fetched(),)], ids=["downloading", "verifying"])
def test_withdrawal_before_the_trial_goes_back_to_idle(events: tuple[ev.Event, ...]) -> None:
    step = run(committed("1"), ev.Wanted(desired("2")), *events, ev.Withdrawn())
    assert step.changes[-1].state is S.IDLE
    assert isinstance(step.effects[-1], ev.CancelFetch)
    assert step.state.failed == ()


def test_another_bundle_replaces_one_that_is_still_downloading() -> None:
    step = run(committed("1"), ev.Wanted(desired("2")), ev.Wanted(desired("3")))
    assert step.state.deployment is not None
    assert step.state.deployment.attempt.version == "3"
    assert [type(one) for one in step.effects] == [ev.Fetch, ev.CancelFetch, ev.Fetch]


def test_another_bundle_waits_while_one_is_probed() -> None:
    step = run(committed("1"), ev.Wanted(desired("2")), *TO_PROBING, ev.Wanted(desired("3")))
    assert step.state.deployment is not None
    assert step.state.deployment.attempt.version == "2"


def test_an_uncommitted_bundle_never_becomes_the_standby() -> None:
    soaking = run(committed("1"), ev.Wanted(desired("2")), *TO_ACTIVE).state
    replaced = run(soaking, ev.Wanted(desired("3")), *TO_ACTIVE).state
    assert replaced.standby is not None and replaced.standby.version == "1"


@pytest.mark.parametrize("state", [S.PREPARING, S.PROBING])
def test_a_stuck_candidate_is_dropped_at_its_deadline(state: DeploymentState) -> None:
    events = TO_PROBING[:2] if state is S.PREPARING else TO_PROBING
    step = run(committed("1"), ev.Wanted(desired("2")), *events)
    late = run(step.state, ev.Tick(), now_s=DEADLINES_S[state])
    assert late.changes[-1].reason is FailureReason.PROBE_TIMEOUT


def test_a_download_that_never_ends_fails_at_its_deadline() -> None:
    step = run(SlotState(slot="classifier"), ev.Wanted(desired("1")))
    assert next_deadline_s(step.state) == 1000.0
    assert run(step.state, ev.Tick(), now_s=999.0).changes == []
    late = run(step.state, ev.Tick(), now_s=1000.0)
    assert late.changes[-1].reason is FailureReason.DOWNLOAD_TIMEOUT


def test_a_bundle_that_takes_the_agent_down_is_given_up() -> None:
    state = run(committed("1"), ev.Wanted(desired("2")), *TO_PROBING).state
    for _ in range(MAX_TRIES - 1):
        step = run(state, ev.Booted(), ev.CandidateLoaded())
        assert step.state.deployment is not None and step.state.deployment.state is S.PROBING
        state = step.state
    step = run(state, ev.Booted())
    assert step.changes[-1].reason is FailureReason.PROBE_FAILED
    assert isinstance(step.effects[0], ev.StartActive)


def test_a_restart_in_the_middle_of_rolling_back_finishes_it() -> None:
    soaking = run(committed("1"), ev.Wanted(desired("2")), *TO_ACTIVE).state
    rolling = run(soaking, ev.ActiveFailed("signal 11")).state
    back = run(rolling, ev.Booted(), ev.CandidateLoaded(), ev.CandidateServing())
    assert back.state.active is not None and back.state.active.version == "1"


_attempts = st.builds(Attempt.of, st.builds(desired, st.sampled_from("12345"), generation=st.integers(1, 2)))
_events = st.one_of(
    st.sampled_from(
        [
            ev.Withdrawn(),
            ev.GiveUpActive(FailureReason.REVERTED, "x"),
            ev.Fetched(),
            ev.Verified(),
            ev.FetchFailed(FailureReason.DIGEST_MISMATCH, "x"),
            ev.FetchFailed(FailureReason.WRONG_PROFILE, "x", rejected=True),
            ev.CandidateLoaded(),
            ev.CandidateProbed(probe(True)),
            ev.CandidateProbed(probe(False)),
            ev.CandidateServing(),
            ev.CandidateFailed(FailureReason.LOAD_FAILED, "x"),
            ev.ActiveFailed("x"),
            ev.Tick(),
        ]
    ),
    st.builds(ev.ActiveChecked, _attempts, st.sampled_from(["", "model.onnx: damaged"])),
    st.builds(ev.ActiveFetched, _attempts),
    st.builds(ev.ActiveFetchFailed, _attempts, st.just(FailureReason.DOWNLOAD_CORRUPT), st.just("x")),
    st.builds(ev.Wanted, st.builds(desired, st.sampled_from("12345"), generation=st.integers(1, 2))),
)


class RandomWalk(RuleBasedStateMachine):
    """Any events in any order, with kills between any two: the laws below hold all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.state = SlotState(slot="classifier")
        self.now_s = 0.0
        self.probed: set[str] = set()

    @rule(event=_events, passed_s=st.floats(0, 400))
    def something_happens(self, event: ev.Event, passed_s: float) -> None:
        self.now_s += passed_s
        before = self.state
        step = advance(before, event, self.now_s)
        self.state = step.state
        deployment = self.state.deployment
        if isinstance(event, ev.CandidateProbed) and event.result.passed and deployment:
            self.probed.add(deployment.attempt.bundle.sha256)
        lost = before.active is not None and self.state.active is None
        assert not lost or before.standby is None, "a device with a fall-back never ends with nothing"

    @precondition(lambda self: self._natural() is not None)
    @rule(times=st.integers(1, 6))
    def goes_on_well(self, times: int) -> None:
        for _ in range(times):
            event = self._natural()
            if event is not None:
                self.something_happens(event, 0.0)

    def _natural(self) -> ev.Event | None:
        deployment = self.state.deployment
        if deployment is None:
            return None
        probed = deployment.probe is not None and deployment.probe.passed
        following: dict[DeploymentState, ev.Event] = {
            S.DOWNLOADING: ev.Fetched(),
            S.VERIFYING: ev.Verified(),
            S.PREPARING: ev.CandidateLoaded(),
            S.PROBING: ev.CandidateServing() if probed else ev.CandidateProbed(probe(True)),
        }
        return following.get(deployment.state)

    @precondition(lambda self: self.state.active is not None)
    @rule()
    def killed_and_started(self) -> None:
        step = advance(self.state, ev.Booted(), self.now_s)
        starts = [one for one in step.effects if isinstance(one, ev.StartActive | ev.StartCandidate)]
        assert starts or step.state.active is None, "after a kill something is started again"
        self.state = step.state

    @rule()
    def written_and_read(self) -> None:
        assert SlotState.model_validate_json(self.state.model_dump_json()) == self.state

    @invariant()
    def only_probed_bundles_serve(self) -> None:
        if self.state.active:
            assert self.state.active.bundle.sha256 in self.probed


TestRandomWalk = RandomWalk.TestCase
TestRandomWalk.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
