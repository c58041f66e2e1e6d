"""Valid rollouts and devices that a test breaks in one place."""

from __future__ import annotations

from typing import Any

from packhorse_agent.contract.rollout import BundleRef
from packhorse_agent.contract.states import DeploymentState, FailureReason
from packhorse_host.fleet.model import (
    FleetDevice,
    LatestDeployment,
    PhaseSpec,
    RolloutRecord,
    RolloutSpec,
)

PI, PHONE = "raspberry-pi-5", "android-arm64"
START_S = 1_000.0
SALT = "a" * 32


def bundle(version: str = "1.0", profile: str = PI) -> BundleRef:
    digest = f"{hash_of(version + profile):064x}"
    return BundleRef(
        target=f"bundles/detector/{version}/{profile}/fp32/manifest.json", sha256=digest, size_bytes=10
    )


def hash_of(text: str) -> int:
    """Small and the same in every process."""
    return int.from_bytes(text.encode().ljust(24, b"\0")[:24], "big")


def bundles(version: str = "1.0", profiles: tuple[str, ...] = (PI, PHONE)) -> dict[str, BundleRef]:
    return {profile: bundle(version, profile) for profile in profiles}


CANARY = PhaseSpec(name="canary", tags=("canary",), soak_s=10.0, deadline_s=100.0)
ALL = PhaseSpec(name="all", share_ppm=1_000_000, soak_s=20.0, deadline_s=200.0)


def spec(**changes: Any) -> RolloutSpec:
    version = changes.get("version", "1.0")
    values: dict[str, Any] = {
        "id": "first",
        "slot": "detector",
        "model": "detector",
        "version": version,
        "bundles": bundles(version),
        "salt": SALT,
        "phases": (CANARY, ALL),
        **changes,
    }
    return RolloutSpec(**values)


def record(progress: str = "running", **changes: Any) -> RolloutRecord:
    """A rollout; `phase`, `generation` and `reason` go to the record, the rest to its spec."""
    own = {key: changes.pop(key) for key in ("phase", "generation", "reason") if key in changes}
    return RolloutRecord(spec=spec(**changes), progress=progress, phase_started_unix_s=START_S, **own)


def device(device_id: str, *tags: str, profile: str = PI, simulated: bool | None = False) -> FleetDevice:
    return FleetDevice(
        device_id=device_id,
        profile=profile,
        agent_version="0.1.0",
        tags=frozenset(tags),
        simulated=simulated,
    )


def said(
    device_id: str, state: str, at_s: float = START_S, reason: FailureReason | None = None
) -> LatestDeployment:
    return LatestDeployment(
        device_id=device_id,
        rollout_id="first",
        generation=1,
        state=DeploymentState(state),
        reason=reason,
        detail="",
        at_unix_s=at_s,
    )
