"""The rollouts document: what the whole fleet should run, evaluated by each device itself."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import Field

from packhorse_agent.contract.base import Name, Sha256Hex, Version, WireDocument
from packhorse_agent.contract.limits import MANIFEST_MAX_BYTES

ROLLOUTS_TARGET = "rollouts/rollouts.json"
"""TUF path of the document."""

SHARE_ALL_PPM = 1_000_000


class BundleRef(WireDocument):
    """A bundle, by its manifest: TUF path, digest and size."""

    target: Annotated[str, Field(min_length=1, max_length=400)]
    sha256: Sha256Hex
    size_bytes: Annotated[int, Field(ge=1, le=MANIFEST_MAX_BYTES)]


class RolloutState(str, Enum):
    """What devices should make of a rollout."""

    ACTIVE = "active"
    PAUSED = "paused"
    """Nobody new starts; who has started goes on."""
    STOPPED = "stopped"
    """Final: nobody new starts; who has started or committed keeps it."""
    CANCELLED = "cancelled"
    """Final: as stopped, and what has not begun to probe is given up."""
    REVERTED = "reverted"
    """Final: everyone goes back to what they had."""


class Selector(WireDocument):
    """Facts that both sides know and that do not flap; an empty part selects all."""

    profiles: tuple[Name, ...] = ()
    tags_all: tuple[Name, ...] = ()
    tags_none: tuple[Name, ...] = ()
    agent_minimum_version: str = ""
    device_ids: tuple[Name, ...] = ()


class Rollout(WireDocument):
    """One release on its way into the fleet, with its present reach."""

    id: Name
    slot: Name
    model: Name
    version: Version
    generation: Annotated[int, Field(ge=1)]
    """Raised by every retry: a device tries a failed bundle again only in a newer generation."""
    state: RolloutState
    selector: Selector = Selector()
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    bundles: Annotated[dict[Name, BundleRef], Field(min_length=1)]
    """The one bundle of each profile."""
    included_tags: tuple[Name, ...] = ()
    """Devices with any of these tags are in, whatever the share."""
    share_ppm: Annotated[int, Field(ge=0, le=SHARE_ALL_PPM)] = 0
    soak_s: Annotated[float, Field(ge=0, le=7 * 86400)]
    """A device commits after serving this long without a failure."""
    download_deadline_s: Annotated[float, Field(gt=0)] = 86400.0


class Baseline(WireDocument):
    """What a profile's devices should run in a slot once no rollout says otherwise."""

    slot: Name
    profile: Name
    model: Name
    version: Version
    rollout_id: Name
    generation: Annotated[int, Field(ge=1)]
    bundle: BundleRef


class RolloutsDocument(WireDocument):
    """All current rollouts and baselines of a fleet."""

    format: Literal[1] = 1
    fleet: Name
    rollouts: tuple[Rollout, ...] = ()
    baselines: tuple[Baseline, ...] = ()


class Assignments(WireDocument):
    """Tags of one shard's devices, under hashed ids, so that no device learns the fleet's list."""

    format: Literal[1] = 1
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    tags: dict[Sha256Hex, tuple[Name, ...]] = Field(default_factory=dict)
    """`selection.assignment_key(salt, device_id)` → tags."""


def assignments_target(shard: int) -> str:
    """TUF path of one shard (0-15)."""
    return f"assignments/{shard:x}.json"
