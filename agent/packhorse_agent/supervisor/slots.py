"""The device's slots: made when first named, each with its listeners, state file and workers."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from packhorse_agent.config import AgentConfig
from packhorse_agent.contract.manifest import Manifest
from packhorse_agent.contract.messages import DeploymentReport
from packhorse_agent.contract.states import FailureReason
from packhorse_agent.deploy import events as ev
from packhorse_agent.deploy.fetch import BundleFetcher, read_manifest
from packhorse_agent.deploy.fitness import Unfit
from packhorse_agent.deploy.listeners import SlotListeners
from packhorse_agent.deploy.model import Attempt, SlotState
from packhorse_agent.deploy.slot import SlotPorts, SlotRunner
from packhorse_agent.deploy.worker_process import WorkerEvent, WorkerProcess, WorkerSpec
from packhorse_agent.errors import AgentError, EnvironmentFaultError, UntrustedError
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.store.state_file import StateFile


@dataclass(frozen=True)
class SlotEvent:
    """Something happened to a slot; goes through the supervisor's queue."""

    slot: str
    event: ev.Event


class SlotSet:
    """All slots of the device, and what they share."""

    def __init__(
        self,
        config: AgentConfig,
        blobs: BlobStore,
        fetcher: BundleFetcher,
        post: Callable[[SlotEvent | WorkerEvent], None],
        report: Callable[[DeploymentReport], None],
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._blobs = blobs
        self._fetcher = fetcher
        self._post = post
        self._report = report
        self._clock = clock
        self._runners: dict[str, SlotRunner] = {}

    @property
    def runners(self) -> Mapping[str, SlotRunner]:
        """Slot → runner."""
        return self._runners

    def boot(self) -> None:
        """Open the slots that are configured or have a state, and serve what was active."""
        on_disk = {path.stem for path in self._folder("slots").glob("*.json") if _is_slot(path.stem)}
        for slot in sorted(on_disk | self._config.slots.keys()):
            self.runner_for(slot)

    def runner_for(self, slot: str) -> SlotRunner:
        """The runner of a slot, made and booted when it is new.

        Raises:
            EnvironmentFaultError: the slot's port is taken.
        """
        runner = self._runners.get(slot)
        if runner is None:
            runner = SlotRunner(slot, self._ports(slot))
            self._runners[slot] = runner
            runner.boot()
        return runner

    def blobs_in_use(self) -> set[str]:
        """Digests of all manifests and artifacts that some slot serves, keeps or brings in."""
        used: set[str] = set()
        for runner in self._runners.values():
            for attempt in runner.bundles_in_use():
                used.add(attempt.bundle.sha256)
                manifest = read_manifest(self._blobs, attempt)
                if isinstance(manifest, Manifest):
                    used |= {artifact.sha256 for artifact in manifest.artifacts}
        return used

    def stop(self) -> None:
        """End all workers."""
        for runner in self._runners.values():
            runner.stop()

    def _ports(self, slot: str) -> SlotPorts:
        settings = self._config.slots.get(slot)
        http = settings.http if settings else None
        return SlotPorts(
            state_file=StateFile(self._folder("slots") / f"{slot}.json", SlotState),
            listeners=SlotListeners(slot, self._folder("sockets") / f"{slot}.sock", http),
            fetcher=self._fetcher,
            verify=self._verify_in_background,
            check_active=self._check_active_in_background,
            start_worker=self._start_worker,
            report=self._report,
            clock=self._clock,
            wall_unix_ms=lambda: time.time_ns() // 1_000_000,
            simulated=self._config.simulate_hardware,
        )

    def _folder(self, name: str) -> Path:
        folder = self._config.state_folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _start_worker(self, slot: str, attempt: Attempt) -> WorkerProcess:
        manifest = read_manifest(self._blobs, attempt)
        if isinstance(manifest, Unfit):
            raise UntrustedError(manifest.detail)
        settings = self._config.slots.get(slot)
        spec = WorkerSpec(
            slot=slot,
            version=attempt.version,
            manifest_path=self._blobs.path(attempt.bundle.sha256),
            artifacts={artifact.role: self._blobs.path(artifact.sha256) for artifact in manifest.artifacts},
            python=Path(sys.executable),
            log_path=self._folder("logs") / f"{slot}.log",
            memory_limit_bytes=self._config.memory_limit_bytes,
            token=settings.token if settings else "",
        )
        return WorkerProcess.start(spec, self._post)

    def _verify_in_background(self, slot: str, attempt: Attempt) -> None:
        def verify() -> None:
            problem = find_damage(self._blobs, attempt)
            event: ev.Event = ev.Verified()
            if problem is not None:
                event = ev.FetchFailed(problem.reason, problem.detail, problem.rejected)
            self._post(SlotEvent(slot, event))

        threading.Thread(target=verify, name=f"verify-{slot}", daemon=True).start()

    def _check_active_in_background(self, slot: str, attempt: Attempt) -> None:
        def check() -> None:
            self._post(SlotEvent(slot, ev.ActiveChecked(attempt, set_damage_aside(self._blobs, attempt))))

        threading.Thread(target=check, name=f"check-{slot}", daemon=True).start()


def find_damage(blobs: BlobStore, attempt: Attempt) -> Unfit | None:
    """Hash every artifact of a bundle again as it lies on the disk; None when all are right."""
    manifest = read_manifest(blobs, attempt)
    if isinstance(manifest, Unfit):
        return manifest
    try:
        for artifact in manifest.artifacts:
            blobs.verify(artifact.sha256)
    except AgentError as error:
        return Unfit(FailureReason.DIGEST_MISMATCH, str(error), rejected=False)
    return None


def set_damage_aside(blobs: BlobStore, attempt: Attempt) -> str:
    """Hash a bundle as it lies on the disk and remove what is damaged, so that it can be fetched again.

    Returns in words what was damaged or missing; empty when all is right. Behind a damaged manifest nothing
    can be checked until that is here again.
    """
    manifest = read_manifest(blobs, attempt)
    if isinstance(manifest, Unfit):
        _remove(blobs, attempt.bundle.sha256)
        return f"manifest: {manifest.detail}"
    damaged = []
    for artifact in manifest.artifacts:
        try:
            blobs.verify(artifact.sha256)
        except AgentError as error:
            damaged.append(f"{artifact.file}: {error}")
            _remove(blobs, artifact.sha256)
    return "; ".join(damaged)


def _remove(blobs: BlobStore, sha256: str) -> None:
    with contextlib.suppress(EnvironmentFaultError):
        blobs.remove(sha256)


def _is_slot(name: str) -> bool:
    """Whether a state file's name can be a slot's: what a person left there must not stop the agent."""
    try:
        SlotState(slot=name)
    except ValidationError:
        return False
    return True
