"""What a slot does when the bundle that it serves fails again and again: its files may be damaged. Pure.

They are hashed; what is damaged is set aside and fetched again, and when all is whole the worker is started
at once. Meanwhile the machine keeps on trying, later and later: the cause may be another.
"""

from __future__ import annotations

from packhorse_agent.contract.states import DeploymentState, FailureReason
from packhorse_agent.deploy import events as ev
from packhorse_agent.deploy.model import Attempt, Deployment
from packhorse_agent.deploy.step import Step

CHECK_AFTER = 2
"""Failures within the window of the crash counter that make the files suspect."""

CHECK_PAUSE_S = 600.0
"""After this they are hashed once more, when the bundle still fails."""

MendingEvent = ev.ActiveChecked | ev.ActiveFetched | ev.ActiveFetchFailed


def check_if_due(step: Step, active: Attempt) -> None:
    """The active bundle failed: ask for a check unless there was one, or what it found is being mended."""
    state = step.state
    checked = state.checked_s is not None and step.now_s < state.checked_s + CHECK_PAUSE_S
    if len(state.crashes_s) < CHECK_AFTER or checked or state.mending:
        return
    step.set(checked_s=step.now_s)
    step.do(ev.CheckActive(active))


def advance(step: Step, event: MendingEvent) -> None:
    """Apply what became of a check or of fetching; echoes of a bundle that is not active are ignored."""
    active = step.state.active
    if active is None or event.attempt != active or step.in_state(DeploymentState.ROLLING_BACK):
        return
    match event:
        case ev.ActiveChecked(_, damage) if damage:
            step.set(mending=True)
            _say(
                step,
                active,
                FailureReason.DIGEST_MISMATCH,
                f"damaged on the disk, is fetched again: {damage}",
            )
            step.do(ev.FetchActive(active))
        case ev.ActiveChecked() if step.state.mending:
            step.set(mending=False, checked_s=step.now_s)
            _say(step, active, None, "what was damaged on the disk has been fetched again")
            step.do(ev.StartActive(active))
        case ev.ActiveFetched() if step.state.mending:
            step.do(ev.CheckActive(active))
        case ev.ActiveFetchFailed(_, reason, detail) if step.state.mending:
            step.set(mending=False, checked_s=step.now_s)
            _say(step, active, reason, f"damaged on the disk, and cannot be fetched again: {detail}")
        case _:
            pass


def _say(step: Step, active: Attempt, reason: FailureReason | None, detail: str) -> None:
    """Report it of the active bundle, whose state stays what it is."""
    said = {"reason": reason, "detail": detail}
    deployment = step.state.deployment
    if deployment is not None and deployment.attempt == active:
        step.set(deployment=deployment.model_copy(update=said))
        step.note(step.deployment)
        return
    state = DeploymentState.COMMITTED if step.state.active_committed else DeploymentState.ACTIVE
    step.note(
        Deployment(
            attempt=active, state=state, entered_s=step.now_s, soak_s=0.0, download_deadline_s=1.0
        ).model_copy(update=said)
    )
