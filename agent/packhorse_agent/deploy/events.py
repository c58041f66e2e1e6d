"""What can happen to a slot, and what it asks for in turn."""

from __future__ import annotations

from dataclasses import dataclass

from packhorse_agent.contract.messages import ProbeResult
from packhorse_agent.contract.selection import Desired
from packhorse_agent.contract.states import FailureReason
from packhorse_agent.deploy.model import Attempt


@dataclass(frozen=True)
class Booted:
    """The supervisor has started and has read the slot's state."""


@dataclass(frozen=True)
class Wanted:
    """The fleet wants a bundle in the slot; with a refusal, the device will not take it."""

    desired: Desired
    refusal: tuple[FailureReason, str] | None = None


@dataclass(frozen=True)
class Withdrawn:
    """The fleet does not want the bundle that is on its way any more."""


@dataclass(frozen=True)
class GiveUpActive:
    """The active bundle is to be given up: a revert of the rollout, or the operator's word."""

    reason: FailureReason
    detail: str


@dataclass(frozen=True)
class Fetched:
    """The manifest and all artifacts are in the store."""


@dataclass(frozen=True)
class Verified:
    """All digests are right and the bundle fits this device."""


@dataclass(frozen=True)
class FetchFailed:
    """The bundle cannot be had, is not what it should be, or does not fit this device."""

    reason: FailureReason
    detail: str
    rejected: bool = False
    """The device may not or will not take it, as opposed to a failure on the way."""


@dataclass(frozen=True)
class CandidateLoaded:
    """The candidate's worker has loaded the model."""


@dataclass(frozen=True)
class CandidateProbed:
    """The golden vectors were replayed."""

    result: ProbeResult


@dataclass(frozen=True)
class CandidateServing:
    """The candidate's worker has taken the listeners."""


@dataclass(frozen=True)
class CandidateFailed:
    """The candidate's worker could not load or died."""

    reason: FailureReason
    detail: str


@dataclass(frozen=True)
class ActiveFailed:
    """The active bundle's worker died or could not be started again."""

    detail: str


@dataclass(frozen=True)
class ActiveChecked:
    """The active bundle's files were hashed again."""

    attempt: Attempt
    damage: str
    """What was damaged or missing, and has been set aside; empty: all is right."""


@dataclass(frozen=True)
class ActiveFetched:
    """What was missing of the active bundle is in the store again."""

    attempt: Attempt


@dataclass(frozen=True)
class ActiveFetchFailed:
    """What is missing of the active bundle cannot be had."""

    attempt: Attempt
    reason: FailureReason
    detail: str


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event = (
    Booted
    | Wanted
    | Withdrawn
    | GiveUpActive
    | Fetched
    | Verified
    | FetchFailed
    | CandidateLoaded
    | CandidateProbed
    | CandidateServing
    | CandidateFailed
    | ActiveFailed
    | ActiveChecked
    | ActiveFetched
    | ActiveFetchFailed
    | Tick
)


@dataclass(frozen=True)
class Fetch:
    """Bring manifest and artifacts into the store."""

    attempt: Attempt


@dataclass(frozen=True)
class CancelFetch:
    """Stop fetching."""

    attempt: Attempt


@dataclass(frozen=True)
class Verify:
    """Check digests and fitness."""

    attempt: Attempt


@dataclass(frozen=True)
class StartCandidate:
    """Start a worker beside the active one and load the bundle."""

    attempt: Attempt


@dataclass(frozen=True)
class ProbeCandidate:
    """Replay the golden vectors."""


@dataclass(frozen=True)
class HandOver:
    """Give the listeners to the candidate."""


@dataclass(frozen=True)
class PromoteCandidate:
    """The candidate is the active worker now; drain the one before."""


@dataclass(frozen=True)
class DropCandidate:
    """End the candidate's worker."""


@dataclass(frozen=True)
class StartActive:
    """Start the active bundle's worker, after a delay."""

    attempt: Attempt
    delay_s: float = 0.0


@dataclass(frozen=True)
class DropActive:
    """End the active worker; nothing serves."""


@dataclass(frozen=True)
class CheckActive:
    """Hash the active bundle's files and set aside what is damaged."""

    attempt: Attempt


@dataclass(frozen=True)
class FetchActive:
    """Bring in again what is missing of the active bundle."""

    attempt: Attempt


Effect = (
    Fetch
    | CancelFetch
    | Verify
    | StartCandidate
    | ProbeCandidate
    | HandOver
    | PromoteCandidate
    | DropCandidate
    | StartActive
    | DropActive
    | CheckActive
    | FetchActive
)
