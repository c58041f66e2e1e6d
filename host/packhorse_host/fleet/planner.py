"""The planner: records and reports in, next records and document out. Pure.

A phase is over when each of its devices has committed, failed, or is left behind at the phase's deadline.
Simulated devices count only in a rollout that reaches nobody else; until every device that it reaches has
said what it is, they wait.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from packhorse_agent.contract.rollout import Baseline, Rollout, RolloutsDocument
from packhorse_agent.contract.selection import is_selected
from packhorse_agent.contract.states import DEADLINES_S, DeploymentState
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


class _Standing(Enum):
    COMMITTED = "committed"
    FAILED = "failed"
    WAITING = "waiting"
    LEFT_BEHIND = "left behind"


@dataclass(frozen=True)
class PhaseCount:
    """How the devices of the present reach stand."""

    selected: int
    committed: int
    waiting: int
    left_behind: int
    failures: tuple[str, ...]
    """`device: reason`, for people."""
    set_aside: int = 0
    """Simulated devices in a rollout that reaches real ones."""

    @property
    def failed(self) -> int:
        """How many devices failed."""
        return len(self.failures)


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
        share_ppm=max(passed.share_ppm for passed in spec.phases[: record.phase + 1]),
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
    counted = [device for device in selected if not device.simulated or simulated is not False]
    standing: dict[_Standing, list[str]] = {one: [] for one in _Standing}
    for device in counted:
        # What a simulated device says counts only where it is sure that no real one is reached.
        report = latest.get(device.device_id) if simulated or not device.simulated else None
        where, why = _standing(record, report, now_unix_s)
        standing[where].append(f"{device.device_id}: {why}")
    return PhaseCount(
        selected=len(counted),
        committed=len(standing[_Standing.COMMITTED]),
        waiting=len(standing[_Standing.WAITING]),
        left_behind=len(standing[_Standing.LEFT_BEHIND]),
        failures=tuple(standing[_Standing.FAILED]),
        set_aside=len(selected) - len(counted),
    )


def is_simulated(record: RolloutRecord, devices: Sequence[FleetDevice]) -> bool | None:
    """Whether a rollout, at its widest, reaches simulated devices and nobody else; None: not known yet."""
    widest = record.model_copy(update={"phase": len(record.spec.phases) - 1})
    kinds = {device.simulated for device in selected_devices(widest, devices)}
    if False in kinds or not kinds:
        return False
    return None if None in kinds else True


def _standing(
    record: RolloutRecord, report: LatestDeployment | None, now_unix_s: float
) -> tuple[_Standing, str]:
    state = report.state if report else DeploymentState.IDLE
    if state is DeploymentState.COMMITTED:
        return _Standing.COMMITTED, ""
    if report and state in _FAILED:
        return _Standing.FAILED, report.reason.value if report.reason else state.value
    if now_unix_s < record.phase_started_unix_s + record.current_phase.deadline_s:
        return _Standing.WAITING, ""
    if report is None or state not in _BEGUN:
        return _Standing.LEFT_BEHIND, ""
    if now_unix_s < report.at_unix_s + _longest_stay_s(record, state):
        return _Standing.WAITING, ""
    return _Standing.FAILED, f"no report after {state.value} by the deadline"


def _longest_stay_s(record: RolloutRecord, state: DeploymentState) -> float:
    """How long a device that is well may say nothing more, in seconds."""
    soak_s = max(phase.soak_s for phase in record.spec.phases[: record.phase + 1])
    return soak_s if state is DeploymentState.ACTIVE else DEADLINES_S[state]


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
    """The document for the whole fleet; `records` oldest first, the document's rollouts newest first.

    An older rollout stays as long as devices may be on it: until a newer one has made a baseline of its slot
    and profile.
    """
    baselines: dict[tuple[str, str], Baseline] = {}
    shown: list[Rollout] = []
    for record in records:
        finished = {(base.slot, base.profile): base for base in finished_baselines(record)}
        baselines.update(finished)
        shown = [kept for older in shown if (kept := _beside(older, finished.keys()))]
        if not finished:
            shown.insert(0, as_document_rollout(record))
    return RolloutsDocument(
        fleet=fleet,
        rollouts=tuple(shown),
        baselines=tuple(baselines[key] for key in sorted(baselines)),
    )


def _beside(older: Rollout, finished: Collection[tuple[str, str]]) -> Rollout | None:
    """What is left of an older rollout beside newer baselines of (slot, profile); None: nothing."""
    bundles = {name: one for name, one in older.bundles.items() if (older.slot, name) not in finished}
    return older.model_copy(update={"bundles": bundles}) if bundles else None


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
    if count.selected == 0 and count.set_aside:
        what = "selects only simulated devices, which count for nothing beside real ones"
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
