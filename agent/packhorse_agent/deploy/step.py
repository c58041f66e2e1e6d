"""A step of a slot's state machine, in the making."""

from __future__ import annotations

from dataclasses import dataclass, field

from packhorse_agent.contract.states import TRANSITIONS, DeploymentState
from packhorse_agent.deploy import events as ev
from packhorse_agent.deploy.model import Deployment, SlotState

_DETAIL_MAX_CHARS = 1000


@dataclass
class Step:
    """A step in the making: the state, the effects to run, and the changes to report, in order."""

    state: SlotState
    now_s: float
    effects: list[ev.Effect] = field(default_factory=list)
    changes: list[Deployment] = field(default_factory=list)

    def set(self, **changes: object) -> None:
        """Replace fields of the slot's state."""
        self.state = self.state.model_copy(update=changes)

    def enter(self, state: DeploymentState, **changes: object) -> Deployment:
        """Move the deployment to `state` and note the change for the report."""
        before = self.deployment
        if "detail" in changes:
            changes["detail"] = str(changes["detail"])[:_DETAIL_MAX_CHARS]  # a report is bounded
        if state not in TRANSITIONS[before.state]:
            raise AssertionError(f"{before.state.value} must not be followed by {state.value}")
        after = before.model_copy(update={"state": state, "entered_s": self.now_s, **changes})
        self.set(deployment=after)
        self.changes.append(after)
        return after

    def note(self, deployment: Deployment) -> None:
        """Report a deployment that stays in its state."""
        self.changes.append(deployment.model_copy(update={"detail": deployment.detail[:_DETAIL_MAX_CHARS]}))

    def do(self, *effects: ev.Effect) -> None:
        """Ask for effects."""
        self.effects += effects

    @property
    def deployment(self) -> Deployment:
        """The deployment under way or last finished."""
        if self.state.deployment is None:
            raise AssertionError("the slot has no deployment")
        return self.state.deployment

    def in_state(self, *states: DeploymentState) -> bool:
        """Whether there is a deployment in one of `states`."""
        return self.state.deployment is not None and self.state.deployment.state in states
