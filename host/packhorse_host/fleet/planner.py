"""The planner: records and reports in, next records and document out. Pure.

A phase is over when each of its devices has committed, failed, or is left behind at the phase's deadline.
Simulated devices count only in a rollout that reaches nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from packhorse_agent.contract.rollout import Baseline, Rollout, RolloutsDocument
from packhorse_agent.contract.selection import is_selected
from packhorse_agent.contract.states import DeploymentState
from packhorse_host.fleet.model import (
    DOCUMENT_STATE,
    FailureAction,
    FleetDevice,
    LatestDeployment,
    RolloutProgress,
    RolloutRecord,
)

_BEGUN = frozenset(
    {
        DeploymentState.PREPARING,
        DeploymentState.PROBING,
        DeploymentState.ACTIVE,
        DeploymentState.ROLLING_BACK,
    }
)
_FAILED = frozenset({DeploymentState.FAILED, DeploymentState.REJECTED})

_ACTIONS = {
    FailureAction.PAUSE: RolloutProgress.PAUSED,
    FailureAction.STOP: RolloutProgress.STOPPED,
    FailureAction.CANCEL: RolloutProgress.CANCELLED,
    FailureAction.REVERT: RolloutProgress.REVERTED,
}


@dataclass(frozen=True)
class PhaseCount:
    """How the devices of the present reach stand."""

    selected: int
    committed: int
    failed: int
    waiting: int
    left_behind: int
    simulated: bool
    """Only simulated devices are counted, since the rollout reaches nobody else."""
    failures: tuple[str, ...]
    """`device: reason`, for people."""


@dataclass(frozen=True)
class Decision:
    """The next record, and what to write into the audit log (empty: nothing changed)."""

    record: RolloutRecord
    audit: str = ""


def as_document_rollout(record: RolloutRecord) -> Rollout:
    """A rollout as devices read it: with the present reach."""
    spec, phase = record.spec, record.current_phase
    tags = {tag for passed in spec.phases[: record.phase + 1] for tag in passed.tags}
    return Rollout(
        id=spec.id,
        slot=spec.slot,
        model=spec.model,
        version=spec.version,
        generation=record.generation,
        state=DOCUMENT_STATE[record.progress],
        selector=spec.selector,
        salt=spec.salt,
        bundles=spec.bundles,
        included_tags=tuple(sorted(tags)),
        share_ppm=phase.share_ppm,
        soak_s=phase.soak_s,
        download_deadline_s=phase.deadline_s,
    )


def selected_devices(record: RolloutRecord, devices: Iterable[FleetDevice]) -> tuple[FleetDevice, ...]:
    """The devices in the present reach; computed by the devices' own function."""
    rollout = as_document_rollout(record)
    return tuple(device for device in devices if is_selected(rollout, device.facts))


def preview(record: RolloutRecord, devices: Sequence[FleetDevice]) -> tuple[tuple[str, ...], ...]:
    """Device ids that each phase would reach, phase by phase, cumulative."""
    steps = (record.model_copy(update={"phase": at}) for at in range(len(record.spec.phases)))
    return tuple(tuple(one.device_id for one in selected_devices(step, devices)) for step in steps)


def count_phase(
    record: RolloutRecord,
    devices: Sequence[FleetDevice],
    latest: Mapping[str, LatestDeployment],
    now_unix_s: float,
) -> PhaseCount:
    """Count the present reach; `latest` maps a device to its last word on this rollout and generation."""
    selected = selected_devices(record, devices)
    simulated = is_simulated(record, devices)
    counted = [device for device in selected if simulated or not device.simulated]
    late = now_unix_s >= record.phase_started_unix_s + record.current_phase.deadline_s
    committed = waiting = left_behind = 0
    failures: list[str] = []
    for device in counted:
        report = latest.get(device.device_id)
        state = report.state if report else DeploymentState.IDLE
        if state is DeploymentState.COMMITTED:
            committed += 1
        elif report and state in _FAILED:
            failures.append(f"{device.device_id}: {report.reason.value if report.reason else state.value}")
        elif late and state in _BEGUN:
            failures.append(f"{device.device_id}: no report after {state.value} by the deadline")
        elif late:
            left_behind += 1
        else:
            waiting += 1
    return PhaseCount(
        len(counted), committed, len(failures), waiting, left_behind, simulated, tuple(failures)
    )


def is_simulated(record: RolloutRecord, devices: Sequence[FleetDevice]) -> bool:
    """Whether a rollout, at its widest, reaches simulated devices and nobody else."""
    widest = record.model_copy(update={"phase": len(record.spec.phases) - 1})
    reached = selected_devices(widest, devices)
    return bool(reached) and all(device.simulated for device in reached)


def plan(record: RolloutRecord, count: PhaseCount, now_unix_s: float) -> Decision:
    """Take a running rollout one step on, if it may."""
    if record.progress is not RolloutProgress.RUNNING:
        return Decision(record)
    allowed = record.spec.max_failure_percent / 100.0 * count.selected
    if count.failed > allowed:
        return _fail(record, count)
    if count.waiting:
        return Decision(record)
    if count.committed == 0 and not record.spec.approve_empty:
        return _hold_empty(record, count)
    return _next_phase(record, now_unix_s)


def finished_baselines(record: RolloutRecord) -> tuple[Baseline, ...]:
    """What a completed rollout makes of its profiles; empty while it does not reach everyone."""
    if record.progress is not RolloutProgress.COMPLETED or not record.spec.reaches_all:
        return ()
    spec = record.spec
    return tuple(
        Baseline(
            slot=spec.slot,
            profile=profile,
            model=spec.model,
            version=spec.version,
            rollout_id=spec.id,
            generation=record.generation,
            bundle=bundle,
        )
        for profile, bundle in sorted(spec.bundles.items())
    )


def build_document(fleet: str, records: Sequence[RolloutRecord]) -> RolloutsDocument:
    """The document for the whole fleet; `records` oldest first.

    A completed rollout that reached everyone lives on as baselines; one that was ended or superseded stays
    named only as long as a device could still be on it and nothing newer has come for its slot and profiles.
    """
    baselines: dict[tuple[str, str], Baseline] = {}
    shown: list[RolloutRecord] = []
    for record in records:
        finished = finished_baselines(record)
        if finished:
            baselines.update({(base.slot, base.profile): base for base in finished})
            shown = [one for one in shown if not _covered(one, record)]
        else:
            shown = [one for one in shown if not (_covered(one, record) and _is_over(one))]
            shown.append(record)
    return RolloutsDocument(
        fleet=fleet,
        rollouts=tuple(as_document_rollout(record) for record in reversed(shown)),
        baselines=tuple(baselines[key] for key in sorted(baselines)),
    )


def _covered(older: RolloutRecord, newer: RolloutRecord) -> bool:
    same_slot = older.spec.slot == newer.spec.slot
    return same_slot and older.spec.bundles.keys() <= newer.spec.bundles.keys()


def _is_over(record: RolloutRecord) -> bool:
    return record.progress not in (RolloutProgress.RUNNING, RolloutProgress.PAUSED)


def _fail(record: RolloutRecord, count: PhaseCount) -> Decision:
    named = "; ".join(count.failures[:5])
    reason = (
        f"{count.failed} of {count.selected} devices failed in phase {record.current_phase.name}: {named}"
    )
    progress = _ACTIONS[record.spec.on_failure]
    changed = record.model_copy(update={"progress": progress, "reason": reason})
    return Decision(changed, f"{progress.value}: {reason}")


def _hold_empty(record: RolloutRecord, count: PhaseCount) -> Decision:
    phase = record.current_phase.name
    what = "selects nobody" if count.selected == 0 else "ended without one device that committed"
    reason = f"phase {phase} {what}; resume with --approve-empty to go on"
    changed = record.model_copy(update={"progress": RolloutProgress.PAUSED, "reason": reason})
    return Decision(changed, f"paused: {reason}")


def _next_phase(record: RolloutRecord, now_unix_s: float) -> Decision:
    passed = record.current_phase.name
    if record.phase + 1 == len(record.spec.phases):
        done = record.model_copy(update={"progress": RolloutProgress.COMPLETED})
        return Decision(done, f"completed: phase {passed} was the last")
    step = {"phase": record.phase + 1, "phase_started_unix_s": now_unix_s}
    changed = record.model_copy(update=step)
    return Decision(changed, f"phase {passed} passed, phase {changed.current_phase.name} begins")
