"""What a person does to rollouts: checked, stored and written into the audit log in one transaction.

The controller reads the database and takes it from there.
"""

from __future__ import annotations

from sqlalchemy import Connection

from packhorse_host.errors import ConflictError, RefusedError
from packhorse_host.fleet.database import add_rollout, append_audit, load_rollout, load_rollouts, save_rollout
from packhorse_host.fleet.devices import load_devices
from packhorse_host.fleet.model import FINAL, RolloutProgress, RolloutRecord, RolloutSpec
from packhorse_host.fleet.planner import preview

_P = RolloutProgress

_ABORTS = frozenset({_P.STOPPED, _P.CANCELLED, _P.REVERTED})


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
