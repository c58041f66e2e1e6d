"""What a person does to rollouts: checked, stored and written into the audit log in one transaction.

The controller reads the database and takes it from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection

from packhorse_agent.contract.rollout import BundleRef
from packhorse_host.errors import ConfigError, ConflictError, NotFoundError, RefusedError
from packhorse_host.fleet.database import add_rollout, append_audit, load_rollout, load_rollouts, save_rollout
from packhorse_host.fleet.devices import load_devices
from packhorse_host.fleet.model import FINAL, RolloutProgress, RolloutRecord, RolloutSpec
from packhorse_host.fleet.phases import parse_phase
from packhorse_host.fleet.planner import preview
from packhorse_host.repository import ReleaseInfo

_P = RolloutProgress

_ABORTS = frozenset({_P.STOPPED, _P.CANCELLED, _P.REVERTED})


def make_spec(phases: Sequence[str], **fields: Any) -> RolloutSpec:
    """An order from what a person typed.

    Raises:
        ConfigError: a phase or a field cannot be what was typed.
    """
    try:
        return RolloutSpec.model_validate({**fields, "phases": tuple(map(parse_phase, phases))})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where or 'rollout'}: {first['msg']}") from error


def choose_bundles(
    releases: Sequence[ReleaseInfo], model: str, version: str, recipe: str | None
) -> dict[str, BundleRef]:
    """Exactly one bundle for each profile that the release has.

    Raises:
        NotFoundError: nothing of that name, version and recipe is published.
        ConflictError: a profile has bundles of several recipes and none was named.
    """
    chosen: dict[str, ReleaseInfo] = {}
    for release in releases:
        if (release.model, release.version) != (model, version) or recipe not in (None, release.recipe):
            continue
        other = chosen.setdefault(release.profile, release)
        if other is not release:
            both = f"{other.recipe} and {release.recipe}"
            raise ConflictError(f"{release.profile} has bundles of {both}; choose one with --recipe")
    if not chosen:
        what = f"{model} {version}" + (f" with recipe {recipe}" if recipe else "")
        known = sorted({f"{one.model} {one.version}" for one in releases})
        raise NotFoundError(f"{what} is not published; published: {', '.join(known) or 'nothing yet'}")
    return {profile: release.ref for profile, release in chosen.items()}


def start_rollout(connection: Connection, spec: RolloutSpec, actor: str, now_s: float) -> RolloutRecord:
    """Begin a rollout with its first phase.

    Raises:
        ConflictError: the id is taken, or another rollout is under way in the slot for one of the profiles.
        RefusedError: a phase would select nobody and `approve_empty` is not set.
    """
    for other in load_rollouts(connection):
        _check_conflict(spec, other)
    record = RolloutRecord(spec=spec, phase_started_unix_s=now_s)
    if not spec.approve_empty:
        _check_phases(connection, record)
    add_rollout(connection, record)
    append_audit(connection, now_s, actor, f"start rollout {spec.id}: {spec.model} {spec.version}")
    return record


def pause_rollout(connection: Connection, rollout_id: str, actor: str, now_s: float) -> RolloutRecord:
    """Let nobody new start; pausing twice is harmless.

    Raises:
        NotFoundError: no such rollout.
        ConflictError: it has ended.
    """
    record = _load_open(connection, rollout_id)
    if record.progress is _P.PAUSED:
        return record
    changed = record.model_copy(update={"progress": _P.PAUSED, "reason": f"paused by {actor}"})
    return _save(connection, changed, actor, now_s, "pause")


def resume_rollout(
    connection: Connection, rollout_id: str, actor: str, now_s: float, *, approve_empty: bool = False
) -> RolloutRecord:
    """Go on; a newer generation lets the devices that failed try again.

    Raises:
        NotFoundError: no such rollout.
        ConflictError: it is not paused.
    """
    record = _load_open(connection, rollout_id)
    if record.progress is not _P.PAUSED:
        raise ConflictError(f"rollout {rollout_id} is {record.progress.value}, not paused")
    spec = record.spec.model_copy(update={"approve_empty": record.spec.approve_empty or approve_empty})
    changed = record.model_copy(
        update={
            "spec": spec,
            "progress": _P.RUNNING,
            "generation": record.generation + 1,
            "phase_started_unix_s": now_s,
            "reason": "",
        }
    )
    return _save(connection, changed, actor, now_s, "resume")


def abort_rollout(
    connection: Connection, rollout_id: str, how: RolloutProgress, actor: str, now_s: float
) -> RolloutRecord:
    """End a rollout: stop new, cancel downloads, or revert; the same end twice is harmless.

    A completed rollout can be reverted still.

    Raises:
        NotFoundError: no such rollout.
        ConflictError: it has ended otherwise.
    """
    if how not in _ABORTS:
        raise AssertionError(f"{how.value} is no way to abort")
    record = load_rollout(connection, rollout_id)
    if record.progress is how:
        return record
    reverting = how is _P.REVERTED and record.progress is not _P.REVERTED
    if record.progress in FINAL and not reverting:
        raise ConflictError(f"rollout {rollout_id} is {record.progress.value} already")
    changed = record.model_copy(update={"progress": how, "reason": f"{how.value} by {actor}"})
    return _save(connection, changed, actor, now_s, how.value)


def _save(
    connection: Connection, record: RolloutRecord, actor: str, now_s: float, verb: str
) -> RolloutRecord:
    save_rollout(connection, record)
    append_audit(connection, now_s, actor, f"{verb} rollout {record.spec.id}")
    return record


def _load_open(connection: Connection, rollout_id: str) -> RolloutRecord:
    record = load_rollout(connection, rollout_id)
    if record.progress in FINAL:
        raise ConflictError(f"rollout {rollout_id} is {record.progress.value} already")
    return record


def _check_conflict(spec: RolloutSpec, other: RolloutRecord) -> None:
    if other.spec.id == spec.id:
        raise ConflictError(f"there is a rollout {spec.id} already; choose another --id")
    shared = sorted(spec.bundles.keys() & other.spec.bundles.keys())
    if other.progress not in FINAL and other.spec.slot == spec.slot and shared:
        raise ConflictError(
            f"rollout {other.spec.id} is {other.progress.value} in slot {spec.slot} for {', '.join(shared)}; "
            "wait for its end or abort it"
        )


def _check_phases(connection: Connection, record: RolloutRecord) -> None:
    devices = [device.for_planning for device in load_devices(connection)]
    for phase, reached in zip(record.spec.phases, preview(record, devices), strict=True):
        if not reached:
            raise RefusedError(
                f"phase {phase.name} would select nobody; check its tags and share, or pass --approve-empty"
            )
