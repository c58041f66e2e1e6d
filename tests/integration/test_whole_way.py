"""The whole way with real processes: publish, deliver, probe, serve, report; and kills on it."""

from __future__ import annotations

import collections
import queue
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from packhorse_agent.contract.chunks import Chunk, decode_frame
from packhorse_agent.contract.limits import WINDOW_MAX_CHUNKS
from packhorse_agent.contract.states import DeploymentState, FailureReason
from packhorse_agent.contract.topics import DeviceChannel, DeviceTopic
from packhorse_agent.link import LinkEvent, LinkSettings, LinkUp, Message, MqttLink, Subscription
from packhorse_agent.link.backoff import Backoff
from packhorse_host.fleet.opened import open_fleet
from packhorse_host.telemetry.query import release_figures
from tests.agent.models import WEIGHTS
from tests.helpers import wait_until
from tests.integration.fleet import DEADLINE_S, EAVESDROPPER, PASSWORD, Agent, Fleet, running_fleet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

MIB = 1024 * 1024


class Eavesdropper:
    """Counts the chunks that pass the broker towards one device."""

    def __init__(self, fleet: Fleet, device_id: str) -> None:
        self.sent: collections.Counter[tuple[str, int]] = collections.Counter()
        self._events: queue.SimpleQueue[LinkEvent] = queue.SimpleQueue()
        topic = DeviceTopic("test", device_id, DeviceChannel.DATA)
        settings = LinkSettings(
            host="127.0.0.1",
            port=fleet.port,
            client_id="eavesdropper",
            username=EAVESDROPPER,
            password=PASSWORD,
            subscriptions=(Subscription(str(topic), 0),),
        )
        self._link = MqttLink(settings, self._events.put, Backoff(maximum_s=0.25))
        self._link.start()
        wait_until(lambda: isinstance(self._events.get(timeout=DEADLINE_S), LinkUp))

    def listen(self) -> int:
        """Take in what has passed; how many chunks so far."""
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return self.sent.total()
            if isinstance(event, Message):
                frame = decode_frame(event.payload)
                if isinstance(frame, Chunk):
                    self.sent[frame.blob_sha256, frame.index] += 1

    def sent_again(self) -> int:
        """Chunks beyond the first sending of each."""
        self.listen()
        return self.sent.total() - len(self.sent)

    def stop(self) -> None:
        self._link.stop()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with running_fleet(tmp_path) as running:
        yield running


def start_all(fleet: Fleet) -> None:
    fleet.controller.start()
    for agent in fleet.agents:
        agent.start()
    wait_until(lambda: all(agent.status().get("connected") for agent in fleet.agents), DEADLINE_S, 0.1)


def assert_answers_right(agent: Agent) -> None:
    np.testing.assert_allclose(agent.infer(), np.ones(len(WEIGHTS)) @ WEIGHTS, rtol=1e-4)


def test_a_release_reaches_the_canary_first_and_then_everyone(fleet: Fleet) -> None:
    canary, other = fleet.enrol("canary-1", "canary"), fleet.enrol("other-1")
    fleet.publish("1.0")
    start_all(fleet)
    rollout = fleet.roll_out("1.0", "canary:tag=canary,soak=1s", "all:share=100%,soak=0s")
    wait_until(lambda: canary.serves("1.0"), DEADLINE_S, 0.05)
    assert not other.serves("1.0")
    fleet.wait_for(rollout, "completed")
    assert other.serves("1.0")
    for agent in (canary, other):
        assert_answers_right(agent)
    states = [report.state for report in reversed(fleet.history("canary-1"))]
    assert states[-1] is DeploymentState.COMMITTED
    assert len(states) == len(set(states)), "every state was reported once"


def test_what_was_served_is_reported_exactly_once(fleet: Fleet) -> None:
    agent = fleet.enrol("device-1")
    fleet.publish("1.0")
    start_all(fleet)
    fleet.wait_for(fleet.roll_out("1.0"), "completed")
    for _ in range(20):
        assert_answers_right(agent)

    def requests() -> int:
        with open_fleet(fleet.workspace.folder) as opened, opened.database.transaction() as connection:
            return sum(one.requests for one in release_figures(connection))

    wait_until(lambda: requests() >= 20, DEADLINE_S, 0.1)
    agent.stop()
    assert requests() == 20


def test_a_release_that_fails_its_probe_leaves_the_old_one_serving(fleet: Fleet) -> None:
    agent = fleet.enrol("device-1")
    fleet.publish("1.0")
    fleet.publish("2.0", broken=True)
    start_all(fleet)
    fleet.wait_for(fleet.roll_out("1.0"), "completed")
    record = fleet.wait_for(fleet.roll_out("2.0"), "paused")
    assert "probe_failed" in record.reason
    assert agent.serves("1.0")
    assert_answers_right(agent)
    assert fleet.history("device-1")[0].reason is FailureReason.PROBE_FAILED


def test_a_reverted_release_takes_devices_back(fleet: Fleet) -> None:
    from packhorse_host.fleet.model import RolloutProgress
    from packhorse_host.fleet.rollouts import abort_rollout

    agent = fleet.enrol("device-1")
    fleet.publish("1.0")
    fleet.publish("2.0")
    start_all(fleet)
    fleet.wait_for(fleet.roll_out("1.0"), "completed")
    fleet.wait_for(fleet.roll_out("2.0"), "completed")
    with open_fleet(fleet.workspace.folder) as opened, opened.database.transaction() as connection:
        abort_rollout(connection, "r-2.0", RolloutProgress.REVERTED, "test", 0.0)
    wait_until(lambda: agent.serves("1.0"), DEADLINE_S, 0.1)
    assert_answers_right(agent)


@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
@pytest.mark.parametrize("victim", ["agent", "controller", "broker"])
def test_a_kill_in_the_middle_of_a_download_costs_no_verified_chunk(
    fleet: Fleet, victim: str, kind: str
) -> None:
    agent = fleet.enrol("device-1")
    fleet.publish("1.0", ballast_bytes=12 * MIB)
    fleet.set_up(kind, 3 * MIB)
    start_all(fleet)
    spy = Eavesdropper(fleet, "device-1")
    rollout = fleet.roll_out("1.0")
    wait_until(lambda: spy.listen() > 60, DEADLINE_S)
    if victim == "broker":
        fleet.kill_broker()
    else:
        server = agent if victim == "agent" else fleet.controller
        server.kill()
        server.start()
    fleet.wait_for(rollout, "completed")
    assert agent.serves("1.0")
    assert spy.sent_again() <= WINDOW_MAX_CHUNKS, "only what was in flight is sent again"
    spy.stop()


def test_a_killed_agent_serves_again_what_it_had_committed(fleet: Fleet) -> None:
    agent = fleet.enrol("device-1")
    fleet.publish("1.0")
    start_all(fleet)
    fleet.wait_for(fleet.roll_out("1.0"), "completed")
    agent.kill()
    fleet.controller.stop()
    agent.start()
    wait_until(lambda: agent.serves("1.0"), DEADLINE_S, 0.1)
    assert_answers_right(agent)


def test_a_device_that_was_away_catches_up_with_the_baseline(fleet: Fleet) -> None:
    fleet.enrol("device-1")
    fleet.publish("1.0")
    start_all(fleet)
    fleet.wait_for(fleet.roll_out("1.0"), "completed")
    late = fleet.enrol("late-1")
    late.start()
    wait_until(lambda: late.serves("1.0"), DEADLINE_S, 0.1)


def test_everything_ends_in_good_order(fleet: Fleet) -> None:
    agent = fleet.enrol("device-1")
    fleet.publish("1.0")
    start_all(fleet)
    fleet.wait_for(fleet.roll_out("1.0"), "completed")
    worker_pid, broker_pid = agent.slot()["pid"], fleet.broker_pid()
    assert agent.stop() == 0
    assert fleet.controller.stop() == 0
    left = [Path(f"/proc/{pid}/cmdline") for pid in (worker_pid, broker_pid)]
    wait_until(lambda: not any(path.exists() for path in left), DEADLINE_S)
