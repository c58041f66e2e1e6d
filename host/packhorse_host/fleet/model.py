"""Rollouts and devices as the host keeps them."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from pydantic import Field, model_validator

from packhorse_agent.contract.base import Name, Version, WireDocument
from packhorse_agent.contract.rollout import SHARE_ALL_PPM, BundleRef, RolloutState, Selector
from packhorse_agent.contract.selection import DeviceFacts
from packhorse_agent.contract.states import DeploymentState, FailureReason

SOAK_MAX_S = 7 * 86_400.0


class FailureAction(str, Enum):
    """What a failed gate does."""

    PAUSE = "pause"
    STOP = "stop"
    CANCEL = "cancel"
    REVERT = "revert"


class PhaseSpec(WireDocument):
    """A share of the devices, by tag or by number; phases add up."""

    name: Name
    tags: tuple[Name, ...] = ()
    share_ppm: Annotated[int, Field(ge=0, le=SHARE_ALL_PPM)] = 0
    soak_s: Annotated[float, Field(ge=0, le=SOAK_MAX_S)] = 60.0
    """How long a device serves without a failure before it commits."""
    deadline_s: Annotated[float, Field(gt=0)] = 86400.0
    """After it, devices that have not begun to probe are left behind, and others that are silent for longer
    than their state may last have failed."""


class RolloutSpec(WireDocument):
    """What was ordered; never changes."""

    id: Name
    slot: Name
    model: Name
    version: Version
    bundles: Annotated[dict[Name, BundleRef], Field(min_length=1)]
    selector: Selector = Selector()
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    phases: Annotated[tuple[PhaseSpec, ...], Field(min_length=1, max_length=32)]
    max_failure_percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Of a phase's devices; above it `on_failure` is done."""
    on_failure: FailureAction = FailureAction.PAUSE
    approve_empty: bool = False
    """A phase that selects nobody passes without a word."""

    @model_validator(mode="after")
    def _shares_rise(self) -> RolloutSpec:
        shares = [phase.share_ppm for phase in self.phases if phase.share_ppm]
        if shares != sorted(shares):
            raise ValueError("the shares of the phases must not fall")
        if len({phase.name for phase in self.phases}) != len(self.phases):
            raise ValueError("the phases must have distinct names")
        return self

    @property
    def reaches_all(self) -> bool:
        """Whether its end makes it the baseline of its profiles."""
        everyone = any(phase.share_ppm == SHARE_ALL_PPM for phase in self.phases)
        return everyone and self.selector == Selector()


class RolloutProgress(str, Enum):
    """Where a rollout stands for its owner."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    REVERTED = "reverted"


FINAL = frozenset(
    {
        RolloutProgress.COMPLETED,
        RolloutProgress.STOPPED,
        RolloutProgress.CANCELLED,
        RolloutProgress.REVERTED,
    }
)

DOCUMENT_STATE = {
    RolloutProgress.RUNNING: RolloutState.ACTIVE,
    RolloutProgress.PAUSED: RolloutState.PAUSED,
    RolloutProgress.COMPLETED: RolloutState.ACTIVE,
    RolloutProgress.STOPPED: RolloutState.STOPPED,
    RolloutProgress.CANCELLED: RolloutState.CANCELLED,
    RolloutProgress.REVERTED: RolloutState.REVERTED,
}
"""What devices are told."""


class RolloutRecord(WireDocument):
    """A rollout and where it stands."""

    spec: RolloutSpec
    progress: RolloutProgress = RolloutProgress.RUNNING
    phase: int = 0
    generation: int = 1
    phase_started_unix_s: float
    reason: str = ""
    """Why it is paused or ended, in words."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens with it."""
        return self.progress in FINAL

    @property
    def current_phase(self) -> PhaseSpec:
        """The phase that it is in, or ended in."""
        return self.spec.phases[self.phase]


class FleetDevice(WireDocument):
    """What gates and previews know of a device."""

    device_id: Name
    profile: Name
    agent_version: str
    tags: frozenset[Name] = frozenset()
    simulated: bool | None = None
    """None: it has not said yet."""

    @property
    def facts(self) -> DeviceFacts:
        """What selectors may read."""
        return DeviceFacts(self.device_id, self.profile, self.agent_version, self.tags)


class LatestDeployment(WireDocument):
    """The last that a device said of one rollout."""

    device_id: Name
    rollout_id: Name
    generation: int
    state: DeploymentState
    reason: FailureReason | None
    detail: str
    at_unix_s: float
