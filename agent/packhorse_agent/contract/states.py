"""The states of a deployment: one initial, three resting ends, failure always with a reason."""

from __future__ import annotations

from enum import Enum
from typing import Final


class DeploymentState(str, Enum):
    """Where one bundle on one device stands."""

    IDLE = "idle"
    QUEUED = "queued"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    STAGED = "staged"
    PREPARING = "preparing"
    PROBING = "probing"
    ACTIVE = "active"
    COMMITTED = "committed"
    ROLLING_BACK = "rolling_back"
    FAILED = "failed"
    REJECTED = "rejected"


class FailureReason(str, Enum):
    """Why a deployment failed or was rejected; the report's `detail` says it in words."""

    DOWNLOAD_NOT_FOUND = "download_not_found"
    DOWNLOAD_TIMEOUT = "download_timeout"
    DOWNLOAD_CORRUPT = "download_corrupt"
    """What arrived was damaged, again and again."""
    DIGEST_MISMATCH = "digest_mismatch"
    NOT_SIGNED = "not_signed"
    METADATA_EXPIRED = "metadata_expired"
    MANIFEST_INVALID = "manifest_invalid"
    WRONG_PROFILE = "wrong_profile"
    WRONG_MODEL = "wrong_model"
    INCOMPATIBLE_HARDWARE = "incompatible_hardware"
    RUNTIME_MISSING = "runtime_missing"
    BELOW_MINIMUM_VERSION = "below_minimum_version"
    STORAGE_FULL = "storage_full"
    STORAGE_FAILED = "storage_failed"
    """The disk, or the rights on it, do not take what has to be stored."""
    LOAD_FAILED = "load_failed"
    PROBE_FAILED = "probe_failed"
    PROBE_TIMEOUT = "probe_timeout"
    WORKER_CRASHED = "worker_crashed"
    CANCELLED = "cancelled"
    REVERTED = "reverted"
    ROLLED_BACK_BY_OPERATOR = "rolled_back_by_operator"


_S = DeploymentState

TRANSITIONS: Final[dict[DeploymentState, frozenset[DeploymentState]]] = {
    _S.IDLE: frozenset({_S.QUEUED, _S.REJECTED}),
    _S.QUEUED: frozenset({_S.DOWNLOADING, _S.FAILED, _S.REJECTED, _S.IDLE}),
    _S.DOWNLOADING: frozenset({_S.VERIFYING, _S.FAILED, _S.REJECTED, _S.IDLE}),
    _S.VERIFYING: frozenset({_S.STAGED, _S.DOWNLOADING, _S.FAILED, _S.REJECTED, _S.IDLE}),
    _S.STAGED: frozenset({_S.PREPARING, _S.FAILED, _S.REJECTED, _S.IDLE}),
    _S.PREPARING: frozenset({_S.PROBING, _S.ROLLING_BACK}),
    _S.PROBING: frozenset({_S.ACTIVE, _S.ROLLING_BACK}),
    _S.ACTIVE: frozenset({_S.COMMITTED, _S.ROLLING_BACK}),
    _S.COMMITTED: frozenset({_S.ROLLING_BACK, _S.QUEUED, _S.IDLE}),
    _S.ROLLING_BACK: frozenset({_S.FAILED}),
    _S.FAILED: frozenset({_S.QUEUED, _S.IDLE}),
    _S.REJECTED: frozenset({_S.QUEUED, _S.IDLE}),
}
"""What may follow what; `idle` after a running state means that the rollout was withdrawn in time."""

RESTING: Final = frozenset({_S.IDLE, _S.COMMITTED, _S.FAILED, _S.REJECTED})
"""Nothing more happens without a new document."""

DEADLINES_S: Final[dict[DeploymentState, float]] = {
    _S.VERIFYING: 600.0,
    _S.STAGED: 3600.0,
    _S.PREPARING: 1800.0,
    _S.PROBING: 300.0,
    _S.ROLLING_BACK: 120.0,
}
"""Longest stay in seconds where the rollout document does not say (`downloading` and `active` it does)."""
