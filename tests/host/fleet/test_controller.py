"""The controller's loop on a real repository and database, with the connection in the test's hands."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.messages import LinkStatus
from packhorse_agent.contract.rollout import RolloutsDocument
from packhorse_agent.contract.topics import DeviceChannel, DeviceTopic, TrustTopic
from packhorse_agent.contract.trustset import decode_trust_set
from packhorse_agent.link import LinkDown, LinkUp, Message
from packhorse_agent.trust.keys import DeviceKey, make_signing_request
from packhorse_host.broker import BrokerCrashLoopError, BrokerReloadError, PollResult
from packhorse_host.delivery import ChunkServer
from packhorse_host.errors import EnvironmentFaultError
from packhorse_host.fleet.controller import Controller, Parts
from packhorse_host.fleet.database import load_rollout
from packhorse_host.fleet.devices import add_device, load_device, store_deployment
from packhorse_host.fleet.model import RolloutProgress
from packhorse_host.fleet.opened import OpenedFleet, open_fleet
from packhorse_host.fleet.rollouts import start_rollout
from packhorse_host.repository import KeyPlan
from packhorse_host.telemetry.ingest import Ingest
from packhorse_host.workspace import Workspace
from tests.fakes.fleet import state
from tests.host.fleet.makers import spec

UP = LinkUp("5")


@dataclass
class BrokerOfTests:
    """Answers `poll` with what a test has prepared, then with no change."""

    answers: list[PollResult | Exception] = field(default_factory=list)

    def poll(self) -> PollResult:
        answer = self.answers.pop(0) if self.answers else PollResult.UNCHANGED
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class Desk:
    """A controller whose connection is a list."""

    fleet: OpenedFleet
    broker: BrokerOfTests = field(default_factory=BrokerOfTests)
    published: list[tuple[str, bytes, bool]] = field(default_factory=list)
    later: list[Any] = field(default_factory=list)
    """Events, one after each turn."""

    def __post_init__(self) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.chunks = ChunkServer(self.fleet.repository, lambda topic, payload: None, "farm", lambda: 0.0)
        parts: Any = Parts(
            fleet="farm",
            database=self.fleet.database,
            repository=self.fleet.repository,
            chunks=self.chunks,
            ingest=Ingest(self.fleet.database, lambda: 5.0),
            publish=self._publish,
            broker=self.broker,  # type: ignore[arg-type]
        )
        self.controller = Controller(parts, self.events)

    def run(self, *events: Any, until: Callable[[], bool]) -> None:
        """Run the loop with these events; it is stopped after the first turn at which `until` holds."""
        for event in events:
            self.events.put(event)
        turn = Controller.take_turn

        def observed(now_unix_s: float) -> None:
            turn(self.controller, now_unix_s)
            if self.later:
                self.events.put(self.later.pop(0))
            if until():
                self.controller.request_stop()

        self.controller.take_turn = observed  # type: ignore[method-assign]
        self.controller.run()

    def trust_sets(self) -> list[bytes]:
        return [payload for topic, payload, retain in self.published if topic == str(TrustTopic("farm"))]

    def document(self) -> RolloutsDocument:
        files = decode_trust_set(self.trust_sets()[-1])
        return RolloutsDocument.model_validate_json(files["targets/rollouts/rollouts.json"])

    def _publish(self, topic: str, payload: bytes, retain: bool) -> bool:
        self.published.append((topic, payload, retain))
        return True


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[OpenedFleet]:
    workspace = Workspace.create(tmp_path / "fleet", "farm", KeyPlan(1, 1, None))
    with open_fleet(workspace.folder) as opened:
        key = DeviceKey.load_or_create(tmp_path / "a.key")
        with opened.database.transaction() as connection:
            add_device(connection, make_signing_request(key, "a", "raspberry-pi-5"), ["canary"], 1.0)
        yield opened


@pytest.fixture
def desk(fleet: OpenedFleet) -> Desk:
    return Desk(fleet)


def begin(fleet: OpenedFleet) -> None:
    with fleet.database.transaction() as connection:
        start_rollout(connection, spec(), "me", 5.0)


def test_nothing_is_published_before_there_is_a_connection(desk: Desk) -> None:
    desk.run(until=lambda: True)
    assert desk.published == []


def test_the_trust_set_is_published_once_for_each_connection(desk: Desk) -> None:
    turns = itertools.count()
    desk.later = [None, None, LinkDown("gone", 0.1), UP]
    counts: list[int] = []

    def settled() -> bool:
        counts.append(len(desk.trust_sets()))
        return next(turns) == 5

    desk.run(UP, until=settled)
    assert counts == [1, 1, 1, 1, 2, 2]
    assert all(retain for _, _, retain in desk.published)


def test_what_a_person_orders_is_signed_and_published(desk: Desk) -> None:
    begin(desk.fleet)
    desk.run(UP, until=lambda: bool(desk.trust_sets()))
    assert [one.id for one in desk.document().rollouts] == ["first"]


def test_what_devices_report_moves_the_rollout_on_and_is_logged(desk: Desk) -> None:
    begin(desk.fleet)
    failed = {"state": "failed", "reason": "probe_failed"}
    with desk.fleet.database.transaction() as connection:
        report = type(state(1)).model_validate({**state(1).model_dump(), **failed})
        store_deployment(connection, "a", report, 6.0)
    desk.run(UP, until=lambda: bool(desk.trust_sets()))
    with desk.fleet.database.transaction() as connection:
        record = load_rollout(connection, "first")
    assert record.progress is RolloutProgress.PAUSED
    assert "a: probe_failed" in record.reason
    assert desk.document().rollouts[0].state.value == "paused"


def test_a_rollout_with_nobody_to_tell_is_planned_all_the_same(desk: Desk) -> None:
    begin(desk.fleet)
    desk.run(until=lambda: True)
    assert desk.fleet.repository.rollouts().rollouts[0].id == "first"


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff", b'{"online": "perhaps"}', b"[" * 1000])
def test_a_link_message_that_is_none_is_ignored(desk: Desk, payload: bytes) -> None:
    topic = str(DeviceTopic("farm", "a", DeviceChannel.LINK))
    online = canonical_json(LinkStatus(online=True))
    desk.run(UP, Message(topic, online), Message(topic, payload), until=lambda: True)
    with desk.fleet.database.transaction() as connection:
        assert load_device(connection, "a").online


def test_messages_that_are_nobodys_are_ignored(desk: Desk) -> None:
    strange = ("ph/1/farm/trust", "other/topic", "", "ph/1/farm/device/a/report", "ph/1/farm/want/0/a")
    desk.run(UP, *(Message(topic, b"x") for topic in strange), until=lambda: bool(desk.trust_sets()))
    assert [topic for topic, _, _ in desk.published] == [str(TrustTopic("farm"))]


def test_a_fault_that_passes_is_waited_out(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packhorse_host.fleet.controller._PAUSE_S", 0.01)
    begin(desk.fleet)
    sign, tries = desk.fleet.repository.set_rollouts, []

    def full_at_first(*arguments: Any) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise EnvironmentFaultError("no space left")
        sign(*arguments)

    monkeypatch.setattr(desk.fleet.repository, "set_rollouts", full_at_first)
    desk.run(UP, until=lambda: bool(desk.trust_sets()))
    assert len(tries) == 3
    assert [one.id for one in desk.document().rollouts] == ["first"]


def test_a_broker_that_came_back_gets_the_trust_set_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packhorse_host.fleet.controller._BROKER_S", 0.01)
    desk.broker.answers = [PollResult.UNCHANGED, BrokerReloadError("not now"), PollResult.RESTARTED]
    desk.run(UP, until=lambda: len(desk.trust_sets()) == 2)
    assert desk.broker.answers == []


def test_a_broker_that_keeps_dying_ends_the_controller(desk: Desk) -> None:
    desk.broker.answers = [BrokerCrashLoopError("died 6 times")]
    with pytest.raises(BrokerCrashLoopError):
        desk.run(UP, until=lambda: False)


def test_what_expires_soon_is_said_once_a_day(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("packhorse_host.fleet.controller._REFRESH_S", 0.0)
    monkeypatch.setattr("packhorse_host.fleet.controller._TURN_S", 0.0)
    days = itertools.chain([0, 0, 0, 340, 340, 341], itertools.repeat(341))
    looked = itertools.count()

    class Calendar(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=next(days))

    monkeypatch.setattr("packhorse_host.fleet.controller.datetime", Calendar)
    desk.run(UP, until=lambda: next(looked) > 8)
    said = [text for text in caplog.messages if "trust renew" in text]
    assert len(said) == 2
    assert "targets expires in 24 days" in said[0]
    assert "targets expires in 23 days" in said[1]
