"""The controller: the only thing on the host with effects on a fleet.

One main thread drains a queue of events and keeps time. What a person orders stands in the database and in
the repository; the controller sees it there within a moment, whichever process wrote it.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any

from pydantic import ValidationError

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.messages import LinkStatus
from packhorse_agent.contract.topics import DeviceChannel, DeviceTopic, TrustTopic, WantTopic, parse_topic
from packhorse_agent.link import LinkDown, LinkEvent, LinkUp, Message
from packhorse_host.broker import BrokerCrashLoopError, EmbeddedBroker, PollResult
from packhorse_host.delivery import ChunkServer
from packhorse_host.errors import ConflictError, EnvironmentFaultError
from packhorse_host.fleet.assignments import build_assignments
from packhorse_host.fleet.database import (
    Database,
    append_audit,
    latest_deployments,
    load_rollouts,
    save_rollout,
)
from packhorse_host.fleet.devices import load_devices, set_online
from packhorse_host.fleet.model import FleetDevice, RolloutProgress, RolloutRecord
from packhorse_host.fleet.planner import build_document, count_phase, plan
from packhorse_host.repository import Repository
from packhorse_host.repository.standing import warnings
from packhorse_host.telemetry.ingest import Ingest

_TURN_S = 0.25
"""How often the database and the repository are looked at."""

_REFRESH_S = 60.0
_BROKER_S = 1.0
_PAUSE_S = 5.0
"""How long a turn waits after one that failed."""

_YIELD_S = 0.002
_EVENTS_A_TURN = 32
"""Before chunks are sent again: a flood of reports must not stop delivery."""

_TRANSIENT = (EnvironmentFaultError, ConflictError, OSError)
"""A full disk, a locked database, another writer: what a controller waits out."""

_log = logging.getLogger(__name__)

Publish = Callable[[str, bytes, bool], bool]
"""(topic, payload, retain) at QoS 1; False when there is no connection."""


@dataclass(frozen=True)
class Parts:
    """What the controller works with."""

    fleet: str
    database: Database
    repository: Repository
    chunks: ChunkServer
    ingest: Ingest
    publish: Publish
    broker: EmbeddedBroker | None
    """None: the broker is somebody else's."""


class Controller:
    """Runs until `request_stop`; every part is called from the thread that calls `run`."""

    def __init__(self, parts: Parts, events: queue.SimpleQueue[LinkEvent | None]) -> None:
        self._parts = parts
        self._events = events
        self._stopping = False
        self._connected = False
        self._published_version: object = None
        self._planned: object = None
        self._next_turn_s = self._next_refresh_s = self._next_broker_s = 0.0
        self._troubles: dict[str, str] = {}
        self._expiry_looked_at: date | None = None
        """Once a day people are told what they have to renew."""

    def request_stop(self) -> None:
        """End the loop soon; safe from a signal handler."""
        self._stopping = True
        self._events.put(None)

    def run(self) -> None:
        """Plan, publish, deliver and take reports in.

        Raises:
            BrokerCrashLoopError: the broker dies again and again.
            ConfigError: a key is not where it should be.
            DamagedRepositoryError: the repository does not fit together.
        """
        while not self._stopping:
            self._take_events()
            self._tick(time.monotonic())

    def _take_events(self) -> None:
        try:
            self._handle(self._events.get(timeout=self._wait_s(time.monotonic())))
            for _ in range(_EVENTS_A_TURN - 1):
                self._handle(self._events.get_nowait())
        except queue.Empty:
            return

    def _wait_s(self, now_s: float) -> float:
        turn_s = max(self._next_turn_s - now_s, 0.0)
        due_s = self._parts.chunks.next_due() if self._connected else None
        # What is due now and was not sent waits for the connection to take more.
        return turn_s if due_s is None else min(turn_s, max(due_s - now_s, _YIELD_S))

    def _survives(self, what: str, action: Callable[[], object]) -> bool:
        """Do something that may fail for a while; False when it did. Each trouble is said once."""
        try:
            action()
        except BrokerCrashLoopError:
            raise
        except _TRANSIENT as error:
            if self._troubles.get(what) != str(error):
                _log.error("%s does not work now: %s", what, error)
            self._troubles[what] = str(error)
            return False
        if self._troubles.pop(what, None) is not None:
            _log.info("%s works again", what)
        return True

    def _handle(self, event: Any) -> None:
        match event:
            case Message():
                self._survives("taking messages in", lambda: self._on_message(event))
            case LinkUp(protocol):
                _log.info("connected to the broker, MQTT %s", protocol)
                self._connected = True
                self._published_version = None
            case LinkDown(reason, retry_in_s):
                _log.warning("%s; next try in %.1f s", reason, retry_in_s)
                self._connected = False

    def _on_message(self, message: Message) -> None:
        topic = parse_topic(message.topic)
        if isinstance(topic, WantTopic):
            self._parts.chunks.on_want(topic, message.payload)
        elif isinstance(topic, DeviceTopic) and topic.channel is DeviceChannel.REPORT:
            self._take_report(topic, message.payload)
        elif isinstance(topic, DeviceTopic) and topic.channel is DeviceChannel.LINK:
            self._take_link(topic, message.payload)

    def _take_report(self, topic: DeviceTopic, envelope: bytes) -> None:
        ack = self._parts.ingest.take(topic, envelope)
        if ack is not None:
            answer = DeviceTopic(topic.fleet, topic.device_id, DeviceChannel.ACK)
            self._parts.publish(str(answer), canonical_json(ack), False)

    def _take_link(self, topic: DeviceTopic, payload: bytes) -> None:
        try:
            status = LinkStatus.model_validate_json(payload)
        except ValidationError:
            return
        with self._parts.database.transaction() as connection:
            set_online(connection, topic.device_id, status.online)

    def _tick(self, now_s: float) -> None:
        self._parts.chunks.tick()
        if now_s >= self._next_broker_s:
            self._next_broker_s = now_s + _BROKER_S
            self._survives("the broker", self._look_after_broker)
        if now_s >= self._next_refresh_s:
            self._next_refresh_s = now_s + _REFRESH_S
            now = datetime.now(timezone.utc)
            self._survives("signing anew", lambda: self._look_after_signatures(now))
        if now_s >= self._next_turn_s:
            worked = self._survives("a turn", lambda: self.take_turn(time.time()))
            self._next_turn_s = now_s + (_TURN_S if worked else _PAUSE_S)

    def _look_after_broker(self) -> None:
        if self._parts.broker is not None and self._parts.broker.poll() is PollResult.RESTARTED:
            _log.warning("the broker had died and was started again")
            self._published_version = None

    def _look_after_signatures(self, now: datetime) -> None:
        self._parts.repository.refresh(now)
        if self._expiry_looked_at != now.date():
            self._expiry_looked_at = now.date()
            for text in warnings(self._parts.repository.standings(), now).values():
                _log.warning("%s", text)

    def take_turn(self, now_unix_s: float) -> None:
        """Plan one step, sign what changed, publish what was signed."""
        records, devices = self._plan(now_unix_s)
        planned = (records, devices)
        if planned != self._planned:
            self._sign(records, devices)
            self._planned = planned
        self._publish_trust_set()

    def _plan(self, now_unix_s: float) -> tuple[list[RolloutRecord], list[FleetDevice]]:
        with self._parts.database.transaction() as connection:
            devices = [device.for_planning for device in load_devices(connection)]
            records = load_rollouts(connection)
            for at, record in enumerate(records):
                if record.progress is not RolloutProgress.RUNNING:
                    continue
                latest = latest_deployments(connection, record.spec.id, record.generation)
                by_device = {report.device_id: report for report in latest}
                decision = plan(record, count_phase(record, devices, by_device, now_unix_s), now_unix_s)
                if decision.audit:
                    _log.info("rollout %s: %s", record.spec.id, decision.audit)
                    records[at] = decision.record
                    save_rollout(connection, decision.record)
                    text = f"rollout {record.spec.id}: {decision.audit}"
                    append_audit(connection, now_unix_s, "controller", text)
        return records, devices

    def _sign(self, records: list[RolloutRecord], devices: list[FleetDevice]) -> None:
        document = build_document(self._parts.fleet, records)
        assignments = build_assignments(self._parts.fleet, devices)
        self._parts.repository.set_rollouts(document, assignments)

    def _publish_trust_set(self) -> None:
        version = self._parts.repository.version()
        if not self._connected or version == self._published_version:
            return
        topic = str(TrustTopic(self._parts.fleet))
        if self._parts.publish(topic, self._parts.repository.trust_set(), True):
            self._published_version = version
