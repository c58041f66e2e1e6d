"""Runs one slot: makes each step of the state machine durable, then runs its effects on real workers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from packhorse_agent.contract.messages import DeploymentReport, SlotInventory
from packhorse_agent.contract.states import RESTING, DeploymentState, FailureReason
from packhorse_agent.deploy import events as ev
from packhorse_agent.deploy.fetch import BundleFetcher
from packhorse_agent.deploy.listeners import SlotListeners
from packhorse_agent.deploy.machine import advance, next_deadline_s
from packhorse_agent.deploy.model import Attempt, Deployment, SlotState
from packhorse_agent.deploy.worker_process import (
    Drained,
    Exited,
    Loaded,
    LoadFailed,
    Probed,
    Serving,
    WorkerEvent,
    WorkerProcess,
)
from packhorse_agent.errors import AgentError, EnvironmentFaultError
from packhorse_agent.store.state_file import StateFile

DRAIN_GRACE_S = 5.0

RESAVE_PAUSE_S = 5.0
"""How often a state is offered again to a disk that did not take it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlotPorts:
    """What a slot needs from outside."""

    state_file: StateFile[SlotState]
    listeners: SlotListeners
    fetcher: BundleFetcher
    verify: Callable[[str, Attempt], None]
    """Check a bundle's digests in the background; posts `Verified` or `FetchFailed` for the slot."""
    check_active: Callable[[str, Attempt], None]
    """Check the active bundle's digests in the background and set aside what is damaged; posts
    `ActiveChecked`."""
    start_worker: Callable[[str, Attempt], WorkerProcess]
    """Raises `AgentError` when the bundle is not whole or no process can be started."""
    report: Callable[[DeploymentReport], None]
    clock: Callable[[], float]
    wall_unix_ms: Callable[[], int]
    simulated: bool


@dataclass
class _Workers:
    active: WorkerProcess | None = None
    active_serving: bool = False
    candidate: WorkerProcess | None = None
    draining: list[WorkerProcess] = field(default_factory=list)
    restart_at_s: float | None = None


class SlotRunner:
    """One slot at work; called from the supervisor's main thread only.

    A disk that does not take the state stops nothing that serves, nor a fall-back: the state is kept in
    memory and saved as soon as that works. Until then no new bundle is tried.
    """

    def __init__(self, slot: str, ports: SlotPorts) -> None:
        self.slot = slot
        self._ports = ports
        self._workers = _Workers()
        self.state = ports.state_file.load() or SlotState(slot=slot)
        self._saved = self.state
        self._save_again_s: float | None = None

    def boot(self) -> None:
        """Serve what was active, and go on with what was under way."""
        self.handle(ev.Booted())

    def handle(self, event: ev.Event) -> None:
        """Apply an event: persist, report, run the effects."""
        step = advance(self.state, event, self._ports.clock())
        if step.state != self.state:
            self.state = step.state
            self._save()
        for change in step.changes:
            if change.state is not DeploymentState.IDLE or change.detail:
                _log.log(*_in_words(self.slot, change))
                self._ports.report(self._deployment_report(change))
        for effect in step.effects:
            self._run(effect)

    def on_worker(self, event: WorkerEvent) -> None:
        """Translate what a worker said by the part that it plays now."""
        workers = self._workers
        if event.worker is workers.candidate:
            self._on_candidate(event)
        elif event.worker is workers.active:
            self._on_active(event)
        elif isinstance(event, Drained | Exited) and event.worker in workers.draining:
            workers.draining.remove(event.worker)
            event.worker.kill()

    def tick(self) -> None:
        """Deadlines, soak, delayed restarts and saves."""
        if self._save_again_s is not None and self._ports.clock() >= self._save_again_s:
            self._save()
        restart_at_s = self._workers.restart_at_s
        if restart_at_s is not None and self._ports.clock() >= restart_at_s:
            self._workers.restart_at_s = None
            if self.state.active:
                self._start_active(self.state.active)
        self.handle(ev.Tick())

    def next_due_s(self) -> float | None:
        """When `tick` is next needed, on the monotonic clock."""
        due = (next_deadline_s(self.state), self._workers.restart_at_s, self._save_again_s)
        return min((at for at in due if at is not None), default=None)

    def bundles_in_use(self) -> frozenset[Attempt]:
        """Attempts whose blobs must stay, also for the state that a kill would bring back."""
        return frozenset((*self.state.bundles_in_use(), *self._saved.bundles_in_use()))

    def serving_worker(self) -> WorkerProcess | None:
        """The worker that answers requests now."""
        return self._workers.active if self._workers.active_serving else None

    def inventory(self) -> SlotInventory:
        """What the slot serves, for people and for the host."""
        active = self.state.active
        return SlotInventory(
            slot=self.slot,
            model=active.model if active else None,
            version=active.version if active else None,
            manifest_sha256=active.bundle.sha256 if active else None,
            serving=self._workers.active_serving,
            endpoint=self._ports.listeners.endpoint,
        )

    def served_by(self, worker: WorkerProcess) -> Attempt | None:
        """What a worker of this slot serves or served; None when it has been forgotten."""
        state = self.state
        under_way = state.deployment.attempt if state.deployment else None
        sha256 = worker.spec.manifest_path.name
        known = (one for one in (state.active, state.standby, under_way) if one)
        return next((one for one in known if one.bundle.sha256 == sha256), None)

    def rest(self) -> tuple[object, ...]:
        """Changes whenever the slot has come to rest differently, or serves something else."""
        deployment = self.state.deployment
        resting = deployment.state if deployment and deployment.state in RESTING else None
        return (self.state.active, self.state.standby, resting, self._workers.active_serving)

    def describe(self) -> dict[str, Any]:
        """All that a person may want to know, as plain data for the status."""
        deployment = self.state.deployment
        return {
            **self.inventory().model_dump(mode="json"),
            "pid": self._workers.active.pid if self._workers.active else None,
            "standby_version": self.state.standby.version if self.state.standby else None,
            "deployment": deployment.model_dump(mode="json") if deployment else None,
        }

    def stop(self) -> None:
        """End all workers at once and close the listeners."""
        workers = self._workers
        for worker in (workers.active, workers.candidate, *workers.draining):
            if worker is not None:
                worker.kill()
        self._ports.listeners.close()

    def _save(self) -> None:
        self._save_again_s = None
        try:
            self._ports.state_file.save(self.state)
        except EnvironmentFaultError as error:
            _log.error("slot %s: its state is kept in memory only: %s", self.slot, error)
            self._save_again_s = self._ports.clock() + RESAVE_PAUSE_S
        else:
            self._saved = self.state

    def _on_candidate(self, event: WorkerEvent) -> None:
        match event:
            case Loaded():
                self.handle(ev.CandidateLoaded())
            case LoadFailed(detail=detail):
                self.handle(ev.CandidateFailed(FailureReason.LOAD_FAILED, detail))
            case Probed(result=result):
                self.handle(ev.CandidateProbed(result))
            case Serving():
                self.handle(ev.CandidateServing())
            case Exited():
                self.handle(ev.CandidateFailed(FailureReason.WORKER_CRASHED, describe_exit(event)))
            case _:
                pass

    def _on_active(self, event: WorkerEvent) -> None:
        match event:
            case Loaded():
                event.worker.serve(self._ports.listeners.sockets)
            case Serving():
                self._workers.active_serving = True
            case LoadFailed(detail=detail):
                self._lose_active(detail)
            case Exited():
                self._lose_active(describe_exit(event))
            case _:
                pass

    def _lose_active(self, detail: str) -> None:
        _log.warning("slot %s: %s", self.slot, detail)
        if self._workers.active is not None:
            self._workers.active.kill()
        self._workers.active = None
        self._workers.active_serving = False
        self.handle(ev.ActiveFailed(detail))

    def _run(self, effect: ev.Effect) -> None:
        match effect:
            case ev.Fetch(attempt):
                self._ports.fetcher.fetch(self.slot, attempt)
            case ev.CancelFetch(attempt):
                self._ports.fetcher.cancel(self.slot, attempt)
            case ev.Verify(attempt):
                self._ports.verify(self.slot, attempt)
            case ev.CheckActive(attempt):
                self._ports.check_active(self.slot, attempt)
            case ev.FetchActive(attempt):
                self._ports.fetcher.fetch(self.slot, attempt, mends=True)
            case ev.StartActive(attempt, delay_s) if delay_s > 0.0:
                self._workers.restart_at_s = self._ports.clock() + delay_s
            case ev.StartActive(attempt):
                self._start_active(attempt)
            case ev.DropActive():
                self._retire(self._workers.active)
                self._workers.active = None
                self._workers.active_serving = False
            case _:
                self._run_on_candidate(effect)

    def _run_on_candidate(self, effect: ev.Effect) -> None:
        workers = self._workers
        if isinstance(effect, ev.StartCandidate):
            self._start_candidate(effect.attempt)
        elif isinstance(effect, ev.DropCandidate):
            self._drop_candidate()
        elif workers.candidate is None:
            self.handle(ev.CandidateFailed(FailureReason.WORKER_CRASHED, "the worker is gone"))
        elif isinstance(effect, ev.ProbeCandidate):
            workers.candidate.probe()
        elif isinstance(effect, ev.HandOver):
            workers.candidate.serve(self._ports.listeners.sockets)
        elif isinstance(effect, ev.PromoteCandidate):
            self._retire(workers.active)
            workers.active, workers.candidate = workers.candidate, None
            workers.active_serving = True
            workers.restart_at_s = None

    def _start_active(self, attempt: Attempt) -> None:
        self._workers.restart_at_s = None
        if self._workers.active is not None:
            return  # it loads or serves: a fall-back that failed takes nothing from it
        self._workers.active_serving = False
        try:
            self._workers.active = self._ports.start_worker(self.slot, attempt)
        except AgentError as error:
            self._workers.active = None
            self.handle(ev.ActiveFailed(str(error)))
        else:
            self._workers.active.load()

    def _start_candidate(self, attempt: Attempt) -> None:
        self._drop_candidate()
        if self._save_again_s is not None and attempt != self.state.standby:
            text = "the slot's state cannot be stored, so nothing new is tried"
            self.handle(ev.CandidateFailed(FailureReason.STORAGE_FAILED, text))
            return
        try:
            self._workers.candidate = self._ports.start_worker(self.slot, attempt)
        except AgentError as error:
            self.handle(ev.CandidateFailed(FailureReason.LOAD_FAILED, str(error)))
        else:
            self._workers.candidate.load()

    def _drop_candidate(self) -> None:
        if self._workers.candidate is not None:
            self._workers.candidate.kill()
        self._workers.candidate = None

    def _retire(self, worker: WorkerProcess | None) -> None:
        if worker is not None:
            worker.drain(DRAIN_GRACE_S)
            self._workers.draining.append(worker)

    def _deployment_report(self, change: Deployment) -> DeploymentReport:
        attempt = change.attempt
        return DeploymentReport(
            at_unix_ms=self._ports.wall_unix_ms(),
            slot=self.slot,
            rollout_id=attempt.rollout_id,
            generation=attempt.generation,
            model=attempt.model,
            version=attempt.version,
            manifest_sha256=attempt.bundle.sha256,
            state=change.state,
            reason=change.reason,
            detail=change.detail,
            probe=change.probe,
            simulated=self._ports.simulated,
        )


def _in_words(slot: str, change: Deployment) -> tuple[int, str]:
    """The change for the agent's own log; what went wrong stands out."""
    why = f" ({change.reason.value}: {change.detail})" if change.reason else ""
    text = f"slot {slot}: {change.attempt.model} {change.attempt.version} is {change.state.value}{why}"
    return logging.WARNING if change.reason else logging.INFO, text


def describe_exit(event: Exited) -> str:
    """A worker's end in words."""
    how = f"signal {event.signal}" if event.signal else f"exit code {event.returncode}"
    last = f": {event.last_log_lines[-1]}" if event.last_log_lines else ""
    return f"the worker ended with {how}{last}"
