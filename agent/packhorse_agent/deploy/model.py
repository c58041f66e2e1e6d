"""What a slot remembers: durable, and the whole input of the deployment state machine."""

from __future__ import annotations

from packhorse_agent.contract.base import Name, Sha256Hex, Version, WireDocument
from packhorse_agent.contract.messages import ProbeResult
from packhorse_agent.contract.rollout import BundleRef
from packhorse_agent.contract.selection import Desired
from packhorse_agent.contract.states import DeploymentState, FailureReason


class Attempt(WireDocument):
    """One try to bring one bundle into a slot; a newer generation is a new attempt."""

    rollout_id: Name
    generation: int
    model: Name
    version: Version
    bundle: BundleRef

    @staticmethod
    def of(desired: Desired) -> Attempt:
        """The attempt that would fulfil `desired`."""
        return Attempt(
            rollout_id=desired.rollout_id,
            generation=desired.generation,
            model=desired.model,
            version=desired.version,
            bundle=desired.bundle,
        )


class Deployment(WireDocument):
    """Where an attempt stands."""

    attempt: Attempt
    state: DeploymentState
    entered_s: float
    """When the state was entered, on the supervisor's monotonic clock (reset at its start)."""
    soak_s: float
    download_deadline_s: float
    tries: int = 0
    """How often the agent went down while it prepared or probed the bundle."""
    reason: FailureReason | None = None
    detail: str = ""
    probe: ProbeResult | None = None


class FailedAttempt(WireDocument):
    """An attempt that is not to be made again."""

    rollout_id: Name
    generation: int
    manifest_sha256: Sha256Hex


class SlotState(WireDocument):
    """One slot: what serves, what it falls back to, what is under way."""

    format: int = 1
    slot: Name
    active: Attempt | None = None
    active_committed: bool = False
    standby: Attempt | None = None
    deployment: Deployment | None = None
    failed: tuple[FailedAttempt, ...] = ()
    crashes_s: tuple[float, ...] = ()
    """When the active bundle's worker died lately, on the supervisor's monotonic clock."""
    checked_s: float | None = None
    """When its files were last hashed for that, on the same clock."""
    mending: bool = False
    """Files of the active bundle were damaged and are being fetched again."""

    def current_sha256(self) -> str | None:
        """The bundle that is on its way, else the one that serves."""
        if self.deployment and self.deployment.state in UNDER_WAY:
            return self.deployment.attempt.bundle.sha256
        return self.active.bundle.sha256 if self.active else None

    def has_failed(self, attempt: Attempt) -> bool:
        """Whether this very attempt failed or was rejected before."""
        return failed_attempt(attempt) in self.failed

    def bundles_in_use(self) -> tuple[Attempt, ...]:
        """Attempts whose blobs must stay."""
        running = self.deployment.attempt if self.deployment and self.deployment.state in UNDER_WAY else None
        return tuple(one for one in (self.active, self.standby, running) if one)


_S = DeploymentState
CANCELLABLE = frozenset({_S.QUEUED, _S.DOWNLOADING, _S.VERIFYING, _S.STAGED})
"""Nothing has been tried on the hardware yet: giving up costs nothing."""

UNDER_WAY = CANCELLABLE | {_S.PREPARING, _S.PROBING}
"""The bundle is not active yet."""


def failed_attempt(attempt: Attempt) -> FailedAttempt:
    """The memory of an attempt."""
    return FailedAttempt(
        rollout_id=attempt.rollout_id,
        generation=attempt.generation,
        manifest_sha256=attempt.bundle.sha256,
    )
