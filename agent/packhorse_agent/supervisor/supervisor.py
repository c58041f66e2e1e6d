"""The supervisor's main loop: events in, one at a time; every part is called from this thread only."""

from __future__ import annotations

import logging
import queue
import random
import time
from contextlib import ExitStack
from typing import Any

from packhorse_agent import __version__
from packhorse_agent.config import AgentConfig, load_configured_profile
from packhorse_agent.contract.manifest import Manifest
from packhorse_agent.contract.selection import DeviceFacts
from packhorse_agent.contract.states import DeploymentState, FailureReason
from packhorse_agent.control import CONTROL_SOCKET, ControlServer, PendingRequest
from packhorse_agent.deploy import events as ev
from packhorse_agent.deploy.director import Director
from packhorse_agent.deploy.fetch import BundleFetcher
from packhorse_agent.deploy.fitness import DeviceFitness, Unfit, check_fitness
from packhorse_agent.deploy.model import Attempt
from packhorse_agent.deploy.worker_process import Stats, WorkerEvent
from packhorse_agent.errors import AgentError, ConflictError, NotFoundError
from packhorse_agent.inventory import collect_inventory
from packhorse_agent.link import LinkDown, LinkUp, Message
from packhorse_agent.machine import machine_facts
from packhorse_agent.profiles import check_hardware
from packhorse_agent.runtime.installed import installed_runtimes
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.store.lock import FolderLock
from packhorse_agent.supervisor.connection import AckArrived, Connection, FrameArrived, TrustSetArrived
from packhorse_agent.supervisor.guard import Guard
from packhorse_agent.supervisor.identity import Identity, load_identity
from packhorse_agent.supervisor.slots import SlotEvent, SlotSet
from packhorse_agent.supervisor.telemetry import Telemetry
from packhorse_agent.transfer import Downloader
from packhorse_agent.trust.clock import DurableClock
from packhorse_agent.trust.verifier import Verifier

_WAIT_MAX_S = 5.0

_log = logging.getLogger(__name__)


class Supervisor:
    """One device at work.

    Raises (on construction):
        ConfigError: not enrolled, unknown profile.
        ConflictError: another agent runs on the same state folder.
        EnvironmentFaultError: a port is taken, or the state folder cannot be written.
    """

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._profile = load_configured_profile(config)
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._resources = ExitStack()
        state = config.state_folder
        identity = load_identity(state)
        self._resources.enter_context(FolderLock(state / "agent.lock"))
        try:
            self._build(identity)
        except BaseException:
            self._resources.close()
            raise

    def _build(self, identity: Identity) -> None:
        config, post = self._config, self._events.put
        state = config.state_folder
        clock = time.monotonic
        self._identity = identity
        self._wall = DurableClock(state / "clock")
        self._blobs = BlobStore(state)
        self._connection = Connection(config, identity, post)
        self._downloader = Downloader(self._blobs, self._connection.send_want, clock, random.Random())
        self._telemetry = Telemetry(
            config, self._profile, identity, self._connection.send_report, clock, self._wall.now
        )
        self._runtimes = installed_runtimes()
        self._fetcher = BundleFetcher(
            self._blobs, self._downloader, self._check, lambda slot, event: post(SlotEvent(slot, event))
        )
        self._slots = SlotSet(config, self._blobs, self._fetcher, post, self._telemetry.report, clock)
        self._resources.callback(self._slots.stop)
        verifier = Verifier(state / "trust", identity.enrolment.root_metadata.encode(), identity.fleet)
        self._resources.callback(verifier.rest)
        self._director = Director(
            keeper=verifier,
            blobs=self._blobs,
            downloader=self._downloader,
            facts=DeviceFacts(identity.device_id, self._profile.name, __version__),
            runner_for=self._slots.runner_for,
            clock=self._wall,
            monotonic=clock,
        )
        self._control = ControlServer(state / CONTROL_SOCKET, post)
        self._resources.callback(self._control.stop)
        self._guard = Guard(clock)
        self._stopping = False
        self._settled: list[tuple[object, ...]] = []

    def request_stop(self) -> None:
        """End the loop soon; safe from a signal handler."""
        self._stopping = True
        self._events.put(None)

    def run(self) -> None:
        """Serve, deliver, deploy and report until `request_stop`."""
        with self._resources:
            self._slots.boot()
            self._control.start()
            self._telemetry.start()
            self._resources.callback(self._telemetry.stop)
            self._connection.start()
            self._resources.callback(self._connection.stop)
            self._evaluate()
            while not self._stopping:
                self._take_events()
                self._tick()

    def _take_events(self) -> None:
        """Handle what has come, waiting for the first no longer than until something is due."""
        try:
            event = self._events.get(timeout=self._wait_s())
            while not self._stopping:
                self._take(event)
                event = self._events.get_nowait()
        except queue.Empty:
            return

    def _wait_s(self) -> float:
        due = [self._downloader.next_due(), self._telemetry.next_due_s(), self._director.next_due_s()]
        due += [runner.next_due_s() for runner in self._slots.runners.values()]
        soonest_s = min((at for at in due if at is not None), default=float("inf"))
        soonest_s = max(soonest_s, self._guard.not_before_s)
        return min(max(soonest_s - time.monotonic(), 0.0), _WAIT_MAX_S)

    def _take(self, event: Any) -> None:
        if isinstance(event, Message):
            self._guard.content(f"message on {event.topic}", lambda: self._on_message(event))
        elif isinstance(event, Stats):
            self._guard.content("figures of a worker", lambda: self._on_stats(event))
        else:
            self._guard.step("event", lambda: self._handle(event))

    def _handle(self, event: Any) -> None:
        match event:
            case LinkUp(protocol):
                _log.info("connected, MQTT %s", protocol)
                self._downloader.on_connected()
                self._telemetry.on_connected()
                self._report_inventory()
            case LinkDown(reason, retry_in_s):
                _log.warning("%s; next try in %.1f s", reason, retry_in_s)
            case SlotEvent(slot, slot_event):
                self._slots.runner_for(slot).handle(slot_event)
            case PendingRequest():
                self._on_control(event)
            case None:
                pass
            case _:
                self._on_worker(event)

    def _on_stats(self, event: Stats) -> None:
        self._telemetry.on_stats(event, self._slots.runners)

    def _on_worker(self, event: WorkerEvent) -> None:
        self._slots.runner_for(event.worker.spec.slot).on_worker(event)

    def _on_message(self, message: Message) -> None:
        match self._connection.read(message):
            case FrameArrived(frame):
                self._downloader.on_frame(frame)
            case AckArrived(ack):
                self._telemetry.on_ack(ack)
            case TrustSetArrived(files):
                if self._director.offer(files):
                    self._evaluate()
            case None:
                pass

    def _tick(self) -> None:
        step = self._guard.step
        step("downloads", self._tick_downloads)
        step("metadata", self._tick_director)
        for slot, runner in list(self._slots.runners.items()):
            step(f"slot {slot}", runner.tick)
        step("telemetry", lambda: self._telemetry.tick(self._slots.runners))
        self._after_changes()

    def _tick_downloads(self) -> None:
        self._downloader.tick()
        for outcome in self._downloader.poll():
            self._fetcher.on_download(outcome)
            if self._director.on_download(outcome):
                self._evaluate()

    def _tick_director(self) -> None:
        if self._director.tick():
            self._evaluate()

    def _after_changes(self) -> None:
        """When a slot has settled, see whether the fleet wants something else by now, and clean up."""
        settled = [(slot, *runner.rest()) for slot, runner in self._slots.runners.items()]
        if settled == self._settled:
            return
        self._settled = settled
        self._guard.step("rollouts", self._evaluate)
        self._guard.step("storage", self._collect)
        self._guard.step("inventory", self._report_inventory)

    def _evaluate(self) -> None:
        self._director.evaluate(self._slots.runners)

    def _collect(self) -> None:
        keep = self._slots.blobs_in_use() | self._downloader.holds()
        self._blobs.collect(keep, self._config.storage_budget_bytes(self._profile))

    def _check(self, manifest: Manifest, attempt: Attempt) -> Unfit | None:
        waived = self._config.simulate_hardware
        device = DeviceFitness(
            profile=self._profile.name,
            hardware_problem=None if waived else check_hardware(self._profile, machine_facts()),
            runtimes=self._runtimes,
            storage_budget_bytes=self._config.storage_budget_bytes(self._profile),
        )
        return check_fitness(manifest, attempt, device)

    def _report_inventory(self) -> None:
        inventory = collect_inventory(
            self._config,
            self._profile.name,
            [runner.inventory() for runner in self._slots.runners.values()],
            self._telemetry.power,
            runtimes=self._runtimes,
            now=self._wall.now,
        )
        self._telemetry.report(inventory)

    def _on_control(self, pending: PendingRequest) -> None:
        request = pending.request
        try:
            answer = self._status() if request.command == "status" else self._roll_back(request.slot)
        except AgentError as error:
            pending.refuse(error)
        else:
            pending.answer(answer)

    def _roll_back(self, slot: str) -> dict[str, Any]:
        runner = self._slots.runners.get(slot)
        if runner is None:
            known = ", ".join(sorted(self._slots.runners)) or "none"
            raise NotFoundError(f'there is no slot "{slot}"; there are: {known}')
        standby = runner.state.standby
        if runner.state.active is None or standby is None:
            raise ConflictError(f"slot {slot} has no earlier bundle to go back to")
        runner.handle(ev.GiveUpActive(FailureReason.ROLLED_BACK_BY_OPERATOR, "on the device"))
        deployment = runner.state.deployment
        if deployment is None or deployment.state is not DeploymentState.ROLLING_BACK:
            now = f"{deployment.attempt.version} is {deployment.state.value}" if deployment else "idle"
            raise ConflictError(f"slot {slot} cannot go back now: {now}; try again when that has ended")
        return {"slot": slot, "returns_to": standby.version}

    def _status(self) -> dict[str, Any]:
        view = self._director.view
        return {
            "device_id": self._identity.device_id,
            "fleet": self._identity.fleet,
            "profile": self._profile.name,
            "simulated": self._config.simulate_hardware,
            "connected": self._connection.connected,
            "metadata_version": view.version if view else None,
            "metadata_expires": view.expires.isoformat() if view else None,
            "metadata_problem": self._director.problem,
            "reports_waiting": dict(self._telemetry.waiting()),
            "power_sources": list(self._telemetry.power.sources),
            "power_reason": self._telemetry.power.reason,
            "slots": [runner.describe() for runner in self._slots.runners.values()],
        }
