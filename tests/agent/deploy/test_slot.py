"""A slot with real workers: deploys, swaps, comes back after crashes and kills, falls back."""

from __future__ import annotations

import os
import queue
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from packhorse_agent.contract.manifest import Manifest
from packhorse_agent.contract.messages import DeploymentReport
from packhorse_agent.contract.rollout import BundleRef, Rollout, RolloutState
from packhorse_agent.contract.selection import Desired
from packhorse_agent.contract.states import DeploymentState, FailureReason
from packhorse_agent.deploy import events as ev
from packhorse_agent.deploy.fetch import BundleFetcher, read_manifest
from packhorse_agent.deploy.fitness import DeviceFitness, Unfit, check_fitness
from packhorse_agent.deploy.listeners import SlotListeners
from packhorse_agent.deploy.model import Attempt, SlotState
from packhorse_agent.deploy.slot import SlotPorts, SlotRunner
from packhorse_agent.deploy.worker_process import Stats, WorkerProcess, WorkerSpec
from packhorse_agent.errors import UntrustedError
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.store.state_file import StateFile
from packhorse_agent.supervisor.slots import SlotEvent, find_damage, set_damage_aside
from packhorse_agent.transfer import Downloader
from tests.agent.models import write_bundle
from tests.agent.workers import ask, tcp_connection
from tests.fakes.disk import BrokenFiles
from tests.helpers import wait_until

S = DeploymentState


class SlotUnderTest:
    """A runner with real parts, driven by one queue as in the supervisor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.reports: list[DeploymentReport] = []
        self.blobs = BlobStore(folder)
        self.disk = BrokenFiles()
        self.listeners = SlotListeners("classifier", folder / "s.sock", ("127.0.0.1", 0))
        downloader = Downloader(self.blobs, lambda want: None, time.monotonic, random.Random(1))
        self.fetcher = BundleFetcher(
            self.blobs, downloader, self._check, lambda slot, event: self.events.put(SlotEvent(slot, event))
        )
        self.runner = self.new_runner()

    def new_runner(self) -> SlotRunner:
        ports = SlotPorts(
            state_file=StateFile(self.folder / "classifier.json", SlotState, files=self.disk),
            listeners=self.listeners,
            fetcher=self.fetcher,
            verify=self._verify,
            check_active=self._check_active,
            start_worker=self._start_worker,
            report=self.reports.append,
            clock=time.monotonic,
            wall_unix_ms=lambda: 0,
            simulated=True,
        )
        return SlotRunner("classifier", ports)

    def add(self, version: str, **changes: object) -> Desired:
        """Put a bundle into the store and make an order for it."""
        bundle = write_bundle(self.folder / f"bundle-{version}", version=version, **changes)  # type: ignore[arg-type]
        sha256 = self.blobs.add_bytes(bundle.manifest_path.read_bytes())
        for path in bundle.artifacts.values():
            self.blobs.add_bytes(path.read_bytes())
        size = bundle.manifest_path.stat().st_size
        reference = BundleRef(target=f"bundles/{version}", sha256=sha256, size_bytes=size)
        rollout = Rollout(
            id=f"r{version}",
            slot="classifier",
            model=bundle.manifest.model,
            version=version,
            generation=1,
            state=RolloutState.ACTIVE,
            salt="0" * 32,
            bundles={bundle.manifest.profile: reference},
            soak_s=0.2,
        )
        return Desired("classifier", rollout.model, version, reference, rollout.id, 1, rollout)

    def pump(self) -> None:
        """Handle what has come, and what is due."""
        while True:
            try:
                event = self.events.get_nowait()
            except queue.Empty:
                break
            if isinstance(event, SlotEvent):
                self.runner.handle(event.event)
            elif not isinstance(event, Stats):
                self.runner.on_worker(event)  # type: ignore[arg-type]
        self.runner.tick()

    def until(self, state: DeploymentState) -> DeploymentReport:
        def reached() -> bool:
            self.pump()
            return bool(self.reports) and self.reports[-1].state is state

        wait_until(reached, deadline_s=30)
        return self.reports[-1]

    def until_serving(self, again: WorkerProcess | None = None) -> None:
        """Until a worker serves; another one than `again`."""

        def serving() -> bool:
            self.pump()
            return self.runner.serving_worker() not in (None, again)

        wait_until(serving, deadline_s=30)

    def deploy(self, version: str) -> Desired:
        wanted = self.add(version)
        self.runner.handle(ev.Wanted(wanted))
        self.until(S.COMMITTED)
        return wanted

    def served_version(self) -> str:
        connection = tcp_connection(self.listeners)
        try:
            answer = ask(connection, "GET", "/v2/models/classifier")
        finally:
            connection.close()
        version: str = answer.content["versions"][0]
        return version

    def stop(self) -> None:
        self.runner.stop()

    def _check(self, manifest: Manifest, attempt: Attempt) -> Unfit | None:
        device = DeviceFitness(manifest.profile, None, {"onnxruntime": "99"}, 10**9)
        return check_fitness(manifest, attempt, device)

    def _verify(self, slot: str, attempt: Attempt) -> None:
        problem = find_damage(self.blobs, attempt)
        event = ev.FetchFailed(problem.reason, problem.detail) if problem else ev.Verified()
        self.events.put(SlotEvent(slot, event))

    def _check_active(self, slot: str, attempt: Attempt) -> None:
        self.events.put(SlotEvent(slot, ev.ActiveChecked(attempt, set_damage_aside(self.blobs, attempt))))

    def _start_worker(self, slot: str, attempt: Attempt) -> WorkerProcess:
        manifest = read_manifest(self.blobs, attempt)
        if isinstance(manifest, Unfit):
            raise UntrustedError(manifest.detail)
        spec = WorkerSpec(
            slot=slot,
            version=attempt.version,
            manifest_path=self.blobs.path(attempt.bundle.sha256),
            artifacts={one.role: self.blobs.path(one.sha256) for one in manifest.artifacts},
            python=Path(sys.executable),
            log_path=self.folder / "worker.log",
            memory_limit_bytes=None,
            token="",
        )
        return WorkerProcess.start(spec, self.events.put)


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[SlotUnderTest]:
    under_test = SlotUnderTest(tmp_path)
    yield under_test
    under_test.stop()


def test_a_release_is_probed_served_and_committed(slot: SlotUnderTest) -> None:
    slot.deploy("1.0")
    assert [one.state for one in slot.reports][-3:] == [S.PROBING, S.ACTIVE, S.COMMITTED]
    assert slot.reports[-1].probe is not None and slot.reports[-1].probe.passed
    assert slot.served_version() == "1.0"


def test_the_next_release_takes_over_and_the_last_stays_as_standby(slot: SlotUnderTest) -> None:
    slot.deploy("1.0")
    slot.deploy("2.0")
    wait_until(lambda: slot.served_version() == "2.0")
    assert slot.runner.state.standby is not None and slot.runner.state.standby.version == "1.0"


def test_a_worker_that_dies_after_commit_is_started_again(slot: SlotUnderTest) -> None:
    slot.deploy("1.0")
    worker = slot.runner.serving_worker()
    assert worker is not None
    os.kill(worker.pid, signal.SIGSEGV)
    slot.until_serving(again=worker)
    assert slot.served_version() == "1.0"


def test_a_worker_that_dies_during_soak_takes_its_release_back(slot: SlotUnderTest) -> None:
    slot.deploy("1.0")
    wanted = slot.add("2.0")
    assert wanted.rollout is not None
    patient = wanted.rollout.model_copy(update={"soak_s": 600.0})
    wanted = Desired("classifier", wanted.model, "2.0", wanted.bundle, wanted.rollout_id, 1, patient)
    slot.runner.handle(ev.Wanted(wanted))
    slot.until(S.ACTIVE)
    worker = slot.runner.serving_worker()
    assert worker is not None
    os.kill(worker.pid, signal.SIGKILL)
    report = slot.until(S.FAILED)
    assert report.reason is FailureReason.WORKER_CRASHED
    assert "signal 9" in report.detail
    assert slot.served_version() == "1.0"


def test_the_operator_takes_a_release_back_without_an_interruption(slot: SlotUnderTest) -> None:
    slot.deploy("1.0")
    slot.deploy("2.0")
    slot.runner.handle(ev.GiveUpActive(FailureReason.ROLLED_BACK_BY_OPERATOR, "on the device"))
    slot.until(S.FAILED)
    wait_until(lambda: slot.served_version() == "1.0")


def test_a_model_that_was_damaged_on_the_disk_is_never_started(slot: SlotUnderTest) -> None:
    slot.deploy("1.0")
    wanted = slot.add("2.0")
    manifest = Manifest.model_validate_json(slot.blobs.read(wanted.bundle.sha256, 65536))
    path = slot.blobs.path(next(one.sha256 for one in manifest.artifacts))
    path.write_bytes(b"\0" * path.stat().st_size)
    slot.runner.handle(ev.Wanted(wanted))
    assert slot.until(S.FAILED).reason is FailureReason.DIGEST_MISMATCH
    assert slot.served_version() == "1.0"


def test_a_fall_back_that_fails_takes_nothing_from_what_serves(
    slot: SlotUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packhorse_agent.deploy.machine.RESTART_DELAY_MAX_S", 0.05)
    old = slot.deploy("1.0")
    slot.deploy("2.0")
    worker = slot.runner.serving_worker()
    slot.blobs.path(old.bundle.sha256).write_bytes(b"damaged")
    slot.runner.handle(ev.GiveUpActive(FailureReason.ROLLED_BACK_BY_OPERATOR, "on the device"))
    slot.until(S.FAILED)

    def restart_is_over() -> bool:
        slot.pump()
        return slot.runner.next_due_s() is None

    wait_until(restart_is_over)
    assert slot.runner.serving_worker() is worker
    assert slot.served_version() == "2.0"


def test_a_new_supervisor_serves_what_the_killed_one_had_committed(slot: SlotUnderTest) -> None:
    slot.deploy("1.0")
    worker = slot.runner.serving_worker()
    assert worker is not None
    worker.kill()
    slot.runner = slot.new_runner()
    slot.runner.boot()
    slot.until_serving()
    assert slot.served_version() == "1.0"


def test_a_worker_comes_back_and_a_release_is_taken_back_on_a_disk_that_takes_nothing(
    slot: SlotUnderTest,
) -> None:
    slot.deploy("1.0")
    slot.deploy("2.0")
    slot.disk.broken = True
    worker = slot.runner.serving_worker()
    assert worker is not None
    worker.kill()

    def replaced() -> bool:
        slot.pump()
        return slot.runner.serving_worker() not in (worker, None)

    wait_until(replaced, 30)
    slot.runner.handle(ev.GiveUpActive(FailureReason.ROLLED_BACK_BY_OPERATOR, "on the device"))
    slot.until(S.FAILED)
    wait_until(lambda: slot.served_version() == "1.0")


def test_what_cannot_be_remembered_is_not_tried(slot: SlotUnderTest) -> None:
    slot.deploy("1.0")
    slot.disk.broken = True
    slot.runner.handle(ev.Wanted(slot.add("2.0")))
    assert slot.until(S.FAILED).reason is FailureReason.STORAGE_FAILED
    assert slot.served_version() == "1.0"


def test_the_state_is_stored_once_the_disk_takes_it_and_no_blob_of_the_old_one_is_given_up(
    slot: SlotUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packhorse_agent.deploy.slot.RESAVE_PAUSE_S", 0.05)
    slot.deploy("1.0")
    slot.deploy("2.0")
    slot.disk.broken = True
    slot.runner.handle(ev.GiveUpActive(FailureReason.ROLLED_BACK_BY_OPERATOR, "on the device"))
    slot.until(S.FAILED)
    assert {one.version for one in slot.runner.bundles_in_use()} == {"1.0", "2.0"}
    assert slot.runner.next_due_s() is not None
    slot.disk.broken = False

    def stored() -> bool:
        slot.pump()
        return slot.runner.next_due_s() is None

    wait_until(stored)
    assert slot.new_runner().state.active == slot.runner.state.active
    assert {one.version for one in slot.runner.bundles_in_use()} == {"1.0"}
