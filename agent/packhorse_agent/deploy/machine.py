"""The deployment state machine of one slot: pure, (state, event, now) in, (state, effects) out.

The caller makes the new state durable before it runs the effects, so that a kill between any two steps is
resumed by `Booted`. Events that do not fit the state are ignored: they are echoes of something cancelled.
"""

from __future__ import annotations

from packhorse_agent.contract.states import DEADLINES_S, DeploymentState, FailureReason
from packhorse_agent.deploy import events as ev
from packhorse_agent.deploy import mending
from packhorse_agent.deploy.model import (
    CANCELLABLE,
    UNDER_WAY,
    Attempt,
    Deployment,
    SlotState,
    failed_attempt,
)
from packhorse_agent.deploy.step import Step

MAX_TRIES = 3
"""Starts of the agent that one candidate may cost before it is given up."""

CRASH_LIMIT = 3
CRASH_WINDOW_S = 300.0
RESTART_DELAY_MAX_S = 30.0
_FAILED_KEPT = 64

_S = DeploymentState


def advance(state: SlotState, event: ev.Event, now_s: float) -> Step:
    """Apply one event to a slot at monotonic time `now_s`."""
    step = Step(state, now_s)
    match event:
        case ev.Booted():
            _boot(step)
        case ev.Wanted():
            _want(step, event)
        case ev.Withdrawn():
            _withdraw(step)
        case ev.GiveUpActive(reason, detail):
            _give_up_active(step, reason, detail)
        case ev.Fetched() if step.in_state(_S.DOWNLOADING):
            step.enter(_S.VERIFYING)
            step.do(ev.Verify(step.deployment.attempt))
        case ev.Verified() if step.in_state(_S.VERIFYING):
            step.enter(_S.STAGED)
            step.enter(_S.PREPARING)
            step.do(ev.StartCandidate(step.deployment.attempt))
        case ev.FetchFailed() if step.in_state(*CANCELLABLE):
            _end(step, _S.REJECTED if event.rejected else _S.FAILED, event.reason, event.detail)
        case ev.ActiveFailed(detail):
            _active_failed(step, detail)
        case ev.ActiveChecked() | ev.ActiveFetched() | ev.ActiveFetchFailed():
            mending.advance(step, event)
        case ev.Tick():
            _tick(step)
        case _:
            _candidate_event(step, event)
    return step


def next_deadline_s(state: SlotState) -> float | None:
    """When the next `Tick` matters, on the monotonic clock; None: never."""
    deployment = state.deployment
    if deployment is None:
        return None
    limit_s = _limit_s(deployment)
    return None if limit_s is None else deployment.entered_s + limit_s


def _limit_s(deployment: Deployment) -> float | None:
    if deployment.state is _S.DOWNLOADING:
        return deployment.download_deadline_s
    if deployment.state is _S.ACTIVE:
        return deployment.soak_s
    return DEADLINES_S.get(deployment.state)


def _boot(step: Step) -> None:
    step.set(crashes_s=(), checked_s=None, mending=False)
    deployment = step.state.deployment
    if deployment is not None:
        step.set(deployment=deployment.model_copy(update={"entered_s": step.now_s}))
    if step.in_state(_S.ROLLING_BACK):
        _start_standby(step)
        return
    if step.state.active:
        step.do(ev.StartActive(step.state.active))
    if step.in_state(_S.PREPARING, _S.PROBING):
        _retry_candidate(step)
    elif step.in_state(*CANCELLABLE):
        resumed = step.deployment.model_copy(update={"state": _S.DOWNLOADING})
        step.set(deployment=resumed)
        step.do(ev.Fetch(resumed.attempt))


def _retry_candidate(step: Step) -> None:
    tries = step.deployment.tries + 1
    if tries >= MAX_TRIES:
        detail = f"the agent went down {tries} times while it tried this bundle"
        _drop_candidate(step, FailureReason.PROBE_FAILED, detail)
        return
    retried = {"state": _S.PREPARING, "tries": tries, "probe": None}
    step.set(deployment=step.deployment.model_copy(update=retried))
    step.do(ev.StartCandidate(step.deployment.attempt))


def _want(step: Step, event: ev.Wanted) -> None:
    attempt = Attempt.of(event.desired)
    if step.in_state(*UNDER_WAY, _S.ROLLING_BACK) and not _make_room(step, attempt):
        return
    active = step.state.active
    if active and active.bundle.sha256 == attempt.bundle.sha256:
        _adopt(step, attempt)
        return
    if step.state.has_failed(attempt):
        return
    _begin(step, event, attempt)


def _make_room(step: Step, attempt: Attempt) -> bool:
    """Whether a new attempt may begin: another one under way is given up while that costs nothing."""
    if step.in_state(*CANCELLABLE) and step.deployment.attempt != attempt:
        _withdraw(step)
        return True
    return False


def _adopt(step: Step, attempt: Attempt) -> None:
    if step.state.active == attempt:
        return
    was_committed = step.state.active_committed
    step.set(active=attempt)
    if step.state.deployment is None or not step.in_state(_S.ACTIVE):
        _new_deployment(step, attempt, _S.COMMITTED)
    else:
        step.set(deployment=step.deployment.model_copy(update={"attempt": attempt}))
        step.changes.append(step.deployment)
    step.set(active_committed=was_committed)


def _new_deployment(step: Step, attempt: Attempt, state: DeploymentState) -> None:
    deployment = Deployment(
        attempt=attempt, state=state, entered_s=step.now_s, soak_s=0.0, download_deadline_s=1.0
    )
    step.set(deployment=deployment)
    step.changes.append(deployment)


def _begin(step: Step, event: ev.Wanted, attempt: Attempt) -> None:
    rollout = event.desired.rollout
    _new_deployment(step, attempt, _S.IDLE)
    step.changes.clear()
    limits = {
        "soak_s": rollout.soak_s if rollout else 0.0,
        "download_deadline_s": rollout.download_deadline_s if rollout else 86400.0,
    }
    if event.refusal:
        _end(step, _S.REJECTED, *event.refusal)
        return
    step.enter(_S.QUEUED, **limits)
    step.enter(_S.DOWNLOADING)
    step.do(ev.Fetch(attempt))


def _withdraw(step: Step) -> None:
    if step.in_state(*CANCELLABLE):
        step.do(ev.CancelFetch(step.deployment.attempt))
        step.enter(_S.IDLE, detail="withdrawn before it was tried")
    elif step.in_state(_S.PREPARING):
        _drop_candidate(step, FailureReason.CANCELLED, "withdrawn before it was probed")


def _end(step: Step, state: DeploymentState, reason: FailureReason, detail: str) -> None:
    if step.in_state(*CANCELLABLE):
        step.do(ev.CancelFetch(step.deployment.attempt))
    step.enter(state, reason=reason, detail=detail)
    _remember_failure(step)


def _remember_failure(step: Step) -> None:
    memory = failed_attempt(step.deployment.attempt)
    others = tuple(one for one in step.state.failed if one != memory)
    step.set(failed=(*others, memory)[-_FAILED_KEPT:])


def _candidate_event(step: Step, event: ev.Event) -> None:
    match event:
        case ev.CandidateLoaded() if step.in_state(_S.PREPARING):
            step.enter(_S.PROBING)
            step.do(ev.ProbeCandidate())
        case ev.CandidateLoaded() if step.in_state(_S.ROLLING_BACK):
            step.do(ev.HandOver())
        case ev.CandidateProbed(result) if step.in_state(_S.PROBING):
            step.set(deployment=step.deployment.model_copy(update={"probe": result}))
            if result.passed:
                step.do(ev.HandOver())
            else:
                _drop_candidate(step, FailureReason.PROBE_FAILED, result.detail)
        case ev.CandidateServing():
            _promote(step)
        case ev.CandidateFailed(reason, detail) if step.in_state(_S.PREPARING, _S.PROBING):
            _drop_candidate(step, reason, detail)
        case ev.CandidateFailed(_, detail) if step.in_state(_S.ROLLING_BACK):
            _standby_failed(step, detail)
        case _:
            pass


def _drop_candidate(step: Step, reason: FailureReason, detail: str) -> None:
    """Give up a candidate before it became active: what serves is not touched."""
    step.enter(_S.ROLLING_BACK, reason=reason, detail=detail)
    step.do(ev.DropCandidate())
    step.enter(_S.FAILED)
    _remember_failure(step)


def _promote(step: Step) -> None:
    if step.in_state(_S.ROLLING_BACK):
        step.set(active=step.state.standby, active_committed=True, standby=None, crashes_s=())
        step.do(ev.PromoteCandidate())
        step.enter(_S.FAILED)
    elif step.in_state(_S.PROBING) and _has_passed(step.deployment):
        fallback = step.state.active if step.state.active_committed else step.state.standby
        step.set(active=step.deployment.attempt, active_committed=False, standby=fallback, crashes_s=())
        step.do(ev.PromoteCandidate())
        step.enter(_S.ACTIVE)
        if step.deployment.soak_s <= 0.0:
            _commit(step)


def _has_passed(deployment: Deployment) -> bool:
    return deployment.probe is not None and deployment.probe.passed


def _commit(step: Step) -> None:
    step.set(active_committed=True)
    step.enter(_S.COMMITTED)


def _give_up_active(step: Step, reason: FailureReason, detail: str) -> None:
    active = step.state.active
    if active is None or step.in_state(_S.ROLLING_BACK):
        return
    if step.in_state(*UNDER_WAY):
        if not step.in_state(*CANCELLABLE):
            return
        _withdraw(step)
    if not step.in_state(_S.ACTIVE, _S.COMMITTED) or step.deployment.attempt != active:
        _new_deployment(step, active, _S.COMMITTED)
        step.changes.clear()
    step.enter(_S.ROLLING_BACK, reason=reason, detail=detail)
    _remember_failure(step)
    _start_standby(step)


def _start_standby(step: Step) -> None:
    if step.state.standby:
        step.do(ev.StartCandidate(step.state.standby))
        return
    step.set(active=None, active_committed=False)
    step.do(ev.DropActive())
    step.enter(_S.FAILED)


def _standby_failed(step: Step, detail: str) -> None:
    """The fall-back does not start either: keep what is there and say so."""
    step.do(ev.DropCandidate())
    active = step.state.active
    if active:
        step.do(ev.StartActive(active, RESTART_DELAY_MAX_S))
    step.set(standby=None)
    step.enter(_S.FAILED, detail=f"{step.deployment.detail}; the fall-back failed too: {detail}")


def _active_failed(step: Step, detail: str) -> None:
    active = step.state.active
    if active is None or step.in_state(_S.ROLLING_BACK):
        return
    recent = tuple(at for at in step.state.crashes_s if at > step.now_s - CRASH_WINDOW_S)
    step.set(crashes_s=(*recent, step.now_s))
    soaking = not step.state.active_committed
    looping = len(step.state.crashes_s) >= CRASH_LIMIT and step.state.standby is not None
    if (soaking or looping) and not step.in_state(*UNDER_WAY):
        _give_up_active(step, FailureReason.WORKER_CRASHED, detail)
    else:
        delay_s = min(0.1 * 4.0 ** (len(step.state.crashes_s) - 1), RESTART_DELAY_MAX_S)
        step.do(ev.StartActive(active, delay_s))
        mending.check_if_due(step, active)


def _tick(step: Step) -> None:
    due_s = next_deadline_s(step.state)
    if due_s is None or step.now_s < due_s:
        return
    state = step.deployment.state
    if state is _S.ACTIVE:
        _commit(step)
    elif state in (_S.PREPARING, _S.PROBING):
        _drop_candidate(step, FailureReason.PROBE_TIMEOUT, f"still {state.value} at its deadline")
    elif state is _S.ROLLING_BACK:
        _standby_failed(step, "it was not ready at its deadline")
    elif state in CANCELLABLE:
        _end(step, _S.FAILED, FailureReason.DOWNLOAD_TIMEOUT, f"still {state.value} at its deadline")
