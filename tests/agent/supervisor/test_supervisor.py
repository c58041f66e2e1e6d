"""The supervisor in this process: nothing that comes in ends it, and operators get true answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packhorse_agent.config import load_config
from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.messages import ReportAck
from packhorse_agent.contract.topics import DeviceChannel, DeviceTopic, TrustTopic
from packhorse_agent.contract.trustset import encode_trust_set
from packhorse_agent.control import ControlRequest, PendingRequest
from packhorse_agent.deploy.director import Director
from packhorse_agent.errors import ConfigError, ConflictError
from packhorse_agent.link import LinkDown, LinkUp, Message
from packhorse_agent.supervisor.supervisor import Supervisor
from tests.agent.agents import DEVICE, SLOT, Device
from tests.agent.trust.simulator import FLEET
from tests.helpers import free_port

TOPICS = [str(TrustTopic(FLEET)), *(str(DeviceTopic(FLEET, DEVICE, one)) for one in DeviceChannel)]


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """Built, but neither connected nor running: the test hands events in."""
    built = Supervisor(load_config(Device(tmp_path_factory.mktemp("d"), free_port()).config))
    built._slots.boot()
    yield built
    built._resources.close()


def ask(supervisor: Supervisor, command: str, slot: str = "") -> dict[str, Any]:
    answers: list[dict[str, Any]] = []
    request = ControlRequest.model_validate({"command": command, "slot": slot})
    supervisor._take(PendingRequest(request, answers.append))
    (answer,) = answers
    return answer


@given(topic=st.sampled_from(TOPICS) | st.text(max_size=60), content=st.binary(max_size=2048))
def test_no_message_raises(supervisor: Supervisor, topic: str, content: bytes) -> None:
    supervisor._take(Message(topic, content))


@settings(max_examples=10)  # each starts a verifier; what it makes of any bytes is tested in its own process
@given(files=st.dictionaries(st.sampled_from(["timestamp.json", "1.snapshot.json"]), st.binary(max_size=300)))
def test_no_trust_set_raises(supervisor: Supervisor, files: dict[str, bytes]) -> None:
    supervisor._take(Message(TOPICS[0], encode_trust_set(files)))


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), OSError(28, "full"), AssertionError()])
def test_a_message_that_uncovers_a_defect_is_dropped(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Director, "offer", fail)
    supervisor._take(Message(TOPICS[0], encode_trust_set({"timestamp.json": b"{}"})))
    supervisor._tick()


def test_an_acknowledgement_of_what_was_never_sent_changes_nothing(supervisor: Supervisor) -> None:
    ack = ReportAck(stream="state", boot=2**53, sequence=2**53)
    before = ask(supervisor, "status")["reports_waiting"]
    supervisor._take(Message(TOPICS[3], ack.model_dump_json().encode()))
    assert ask(supervisor, "status")["reports_waiting"] == before


def test_connecting_and_losing_the_connection_is_survived(supervisor: Supervisor) -> None:
    supervisor._take(LinkUp("5"))
    supervisor._take(LinkDown("gone", 1.0))
    assert ask(supervisor, "status")["reports_waiting"]["state"] >= 1, "an inventory waits"


def test_the_status_says_who_what_and_why_not(supervisor: Supervisor) -> None:
    status = ask(supervisor, "status")
    assert (status["device_id"], status["fleet"], status["simulated"]) == (DEVICE, FLEET, True)
    assert status["connected"] is False
    assert [slot["slot"] for slot in status["slots"]] == [SLOT]
    assert status["power_sources"] or status["power_reason"]


def test_a_slot_that_is_not_there_cannot_go_back(supervisor: Supervisor) -> None:
    answer = ask(supervisor, "rollback", "toaster")
    assert answer["exit_code"] == ExitCode.NOT_FOUND
    assert SLOT in answer["error"]


def test_a_slot_with_nothing_before_cannot_go_back(supervisor: Supervisor) -> None:
    answer = ask(supervisor, "rollback", SLOT)
    assert answer["exit_code"] == ExitCode.CONFLICT


def test_the_loop_is_held_back_after_a_step_that_failed(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a fault that stays would be met again at once, for ever."""

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(supervisor._downloader, "tick", fail)
    monkeypatch.setattr(supervisor._downloader, "next_due", lambda: 0.0)
    supervisor._tick()
    assert supervisor._wait_s() > 0.5


def test_a_defect_in_the_loop_is_not_swallowed(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("defect")

    monkeypatch.setattr(supervisor._downloader, "tick", fail)
    with pytest.raises(KeyError):
        supervisor._tick()


def test_a_stray_file_among_the_slots_is_passed_over(tmp_path: Path) -> None:
    device = Device(tmp_path)
    slots = device.state / "slots"
    slots.mkdir()
    for name in ("Not A Slot.json", ".json", "classifier.json.unreadable-1", "UPPER.json"):
        (slots / name).write_text("{}")
    (slots / "detector.json").write_text("damaged")
    built = Supervisor(load_config(device.config))
    try:
        built._slots.boot()
        assert sorted(built._slots.runners) == [SLOT, "detector"]
    finally:
        built._resources.close()


def two_at_once(device: Device) -> None:
    Supervisor(load_config(device.config))


def unknown_profile(device: Device) -> None:
    device.config.write_text(device.config.read_text().replace("generic-x86_64", "generic"))
    Supervisor(load_config(device.config))


@pytest.mark.parametrize(("start", "error"), [(two_at_once, ConflictError), (unknown_profile, ConfigError)])
def test_a_start_that_fails_leaves_nothing_held(
    tmp_path: Path, start: Callable[[Device], None], error: type[Exception]
) -> None:
    device = Device(tmp_path)
    text = device.config.read_text()
    first = Supervisor(load_config(device.config))
    try:
        with pytest.raises(error):
            start(device)
    finally:
        first._resources.close()
    device.config.write_text(text)
    Supervisor(load_config(device.config))._resources.close()
