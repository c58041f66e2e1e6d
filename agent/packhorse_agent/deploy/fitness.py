"""Whether a bundle fits this device: pure, on the manifest alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packhorse_agent.contract.base import version_key
from packhorse_agent.contract.manifest import Manifest
from packhorse_agent.contract.states import FailureReason
from packhorse_agent.deploy.model import Attempt


@dataclass(frozen=True)
class Unfit:
    """Why not; `rejected` tells a device that will not take it from a fault on the way."""

    reason: FailureReason
    detail: str
    rejected: bool = True


@dataclass(frozen=True)
class DeviceFitness:
    """What decides what a device may carry."""

    profile: str
    hardware_problem: str | None
    """Why this machine cannot carry the profile; None when it can or when the hardware is simulated."""
    runtimes: Mapping[str, str]
    """Runtime → installed version."""
    storage_budget_bytes: int


def check_fitness(manifest: Manifest, attempt: Attempt, device: DeviceFitness) -> Unfit | None:
    """Compare a manifest with what was ordered and with the device; None when all fits."""
    return (
        _check_identity(manifest, attempt, device)
        or _check_runtime(manifest, device)
        or _check_storage(manifest, device)
    )


def _check_identity(manifest: Manifest, attempt: Attempt, device: DeviceFitness) -> Unfit | None:
    if (manifest.model, manifest.version) != (attempt.model, attempt.version):
        ordered, found = f"{attempt.model} {attempt.version}", f"{manifest.model} {manifest.version}"
        return Unfit(FailureReason.WRONG_MODEL, f"the rollout names {ordered}, the bundle holds {found}")
    if manifest.profile != device.profile:
        text = f"the bundle is for {manifest.profile}, this device is {device.profile}"
        return Unfit(FailureReason.WRONG_PROFILE, text)
    if device.hardware_problem:
        return Unfit(FailureReason.INCOMPATIBLE_HARDWARE, device.hardware_problem)
    return None


def _check_runtime(manifest: Manifest, device: DeviceFitness) -> Unfit | None:
    need = manifest.runtime
    have = device.runtimes.get(need.name)
    if have is None:
        text = f"{need.name} is not installed; install packhorse[{need.name}]"
    elif version_key(have) < version_key(need.minimum_version):
        text = f"{need.name} {have} is installed, the bundle needs {need.minimum_version} or newer"
    else:
        return None
    return Unfit(FailureReason.RUNTIME_MISSING, text)


def _check_storage(manifest: Manifest, device: DeviceFitness) -> Unfit | None:
    need = manifest.total_size_bytes()
    if need <= device.storage_budget_bytes:
        return None
    text = f"the bundle's {need} bytes are over the storage budget of {device.storage_budget_bytes} bytes"
    return Unfit(FailureReason.STORAGE_FULL, text)
