"""The whole supervisor as a process, on a real broker: how it starts, ends, and what it outlives."""

from __future__ import annotations

import os
import random
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.limits import TRUST_SET_MAX_BYTES
from packhorse_agent.contract.messages import Inventory
from packhorse_agent.contract.topics import DeviceChannel, DeviceTopic, TrustTopic
from packhorse_agent.contract.trustset import encode_trust_set
from packhorse_agent.control import CONTROL_SOCKET
from packhorse_agent.supervisor.identity import ENROLMENT_FILE, KEY_FILE
from tests.agent.agents import (
    DEVICE,
    END_WITHIN_S,
    SLOT,
    AgentProcess,
    Device,
    Ear,
    ear,
    is_gone,
    run_service,
    running,
)
from tests.agent.trust.simulator import FLEET
from tests.helpers import free_port, wait_until
from tests.mosquitto import Mosquitto


def has_inventory(listener: Ear, device: Device) -> bool:
    items = [item for report in listener.reports(device.key) for item in report.items]
    return any(isinstance(item, Inventory) and item.simulated for item in items)


def test_it_says_hello_with_a_signed_inventory_and_goodbye_at_sigterm(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    device = Device(tmp_path, mosquitto.port)
    device.put_in_service()
    with ear(mosquitto.port) as listener, running(device) as agent:
        wait_until(lambda: listener.online() and has_inventory(listener, device), 30)
        worker = agent.serving()
        mode = stat.S_IMODE((device.state / CONTROL_SOCKET).stat().st_mode)
        assert mode == 0o600
        code, took_s = agent.terminate()
        assert (code, took_s < END_WITHIN_S) == (ExitCode.OK, True), agent.log()
        wait_until(lambda: listener.online() is False)
        wait_until(lambda: is_gone(worker))
        assert not (device.state / CONTROL_SOCKET).exists()


def test_after_a_kill_the_broker_says_offline_and_no_worker_stays(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    device = Device(tmp_path, mosquitto.port)
    device.put_in_service()
    with ear(mosquitto.port) as listener, running(device) as agent:
        wait_until(listener.online, 30)
        worker = agent.serving()
        agent.kill()
        wait_until(lambda: listener.online() is False)
        wait_until(lambda: is_gone(worker))
    with running(device) as again:
        again.serving()


def test_a_broker_that_comes_later_is_found(tmp_path: Path, mosquitto: Mosquitto) -> None:
    mosquitto.kill()
    device = Device(tmp_path, mosquitto.port)
    device.put_in_service()
    with running(device) as agent:
        agent.serving()
        assert agent.status()["connected"] is False
        mosquitto.start()
        agent.wait_for(connected=True)


def test_a_host_that_never_answers_does_not_hold_the_end_up(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        with running(Device(tmp_path, silent.getsockname()[1])) as agent:
            agent.wait_for(connected=False)
            code, took_s = agent.terminate()
    assert (code, took_s < END_WITHIN_S) == (ExitCode.OK, True)


def test_a_taken_port_is_the_machines_fault(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        device = Device(tmp_path, http=f"127.0.0.1:{port}")
        done = run_service(device.config)
    assert done.returncode == ExitCode.ENVIRONMENT
    assert f"error: slot {SLOT}: another program listens on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (device.state / CONTROL_SOCKET).exists()


def test_two_agents_on_one_state_folder_are_a_conflict(tmp_path: Path) -> None:
    device = Device(tmp_path)
    with running(device) as first:
        first.wait_for(connected=False)
        done = run_service(device.config)
        assert done.returncode == ExitCode.CONFLICT
        assert f"in use by process {first.process.pid}" in done.stderr
        assert first.status(), "the first one's control socket was taken away"


def break_config(device: Device) -> None:
    device.config.write_text('state_folder = "state"\nprofil = "generic-x86_64"\n')


def name_unknown_profile(device: Device) -> None:
    device.config.write_text('state_folder = "state"\nprofile = "generic-x86_65"\n')


def forget_enrolment(device: Device) -> None:
    (device.state / ENROLMENT_FILE).unlink()


def damage_enrolment(device: Device) -> None:
    (device.state / ENROLMENT_FILE).write_text('{"fleet": "farm"')


def lose_key(device: Device) -> None:
    (device.state / KEY_FILE).unlink()


def damage_key(device: Device) -> None:
    (device.state / KEY_FILE).write_text("no key")


def use_long_folder(device: Device) -> None:
    folder = "x" * 60 + "/" + "y" * 60
    moved = device.folder / folder
    moved.parent.mkdir()
    device.state.rename(moved)
    device.config.write_text(device.config.read_text().replace('"state"', f'"{folder}"'))


@pytest.mark.parametrize(
    ("damage", "code", "advice"),
    [
        (break_config, ExitCode.USAGE, "profile"),
        (name_unknown_profile, ExitCode.USAGE, "generic-x86_64"),
        (forget_enrolment, ExitCode.USAGE, "packhorse-agent request"),
        (damage_enrolment, ExitCode.BAD_INPUT, "is no enrolment"),
        (lose_key, ExitCode.USAGE, "Restore it"),
        (damage_key, ExitCode.USAGE, "restore it"),
        (use_long_folder, ExitCode.USAGE, "choose a shorter state folder"),
    ],
)
def test_it_does_not_start_on_what_is_wrong_and_says_what_to_do(
    tmp_path: Path, damage: Callable[[Device], None], code: ExitCode, advice: str
) -> None:
    device = Device(tmp_path)
    damage(device)
    done = run_service(device.config)
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert advice in done.stderr
    assert "Traceback" not in done.stderr


def test_no_message_ends_it(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """Noise of every size on every topic that it listens to, and half-right content."""
    noise = random.Random(1)
    device = Device(tmp_path, mosquitto.port)
    topics = [str(TrustTopic(FLEET))]
    topics += [str(DeviceTopic(FLEET, DEVICE, channel)) for channel in DeviceChannel]
    contents = [b"", b"\0", b"{}", b"[]", b"null", b'{"stream":"state","boot":1e400,"sequence":1}']
    contents += [noise.randbytes(size) for size in (1, 40, 70, 4096, TRUST_SET_MAX_BYTES, 2**20)]
    contents += [b"PC" + noise.randbytes(64), b"PR" + noise.randbytes(64)]
    contents += [encode_trust_set({"timestamp.json": noise.randbytes(100)})]
    with ear(mosquitto.port) as listener, running(device) as agent:
        agent.wait_for(connected=True)
        for topic in topics:
            for content in contents:
                listener.say(topic, content)
        listener.say(topics[0], encode_trust_set(device.simulator.files()))
        agent.wait_for(metadata_version=1)
        assert "Traceback" not in agent.log()


def test_a_worker_that_was_killed_comes_back(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.put_in_service()
    with running(device) as agent:
        worker = agent.serving()
        worker.kill()
        agent.serving(after=worker)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    ballast = folder / "ballast"
    with ballast.open("ab") as file:
        for size in (65536, 4096, 1):
            while True:
                try:
                    os.write(file.fileno(), b"\0" * size)
                except OSError:
                    break
    return ballast


def test_a_full_disk_ends_nothing_that_serves(tmp_path: Path, small_disk: Path, mosquitto: Mosquitto) -> None:
    """Worker and agent come back on it, newer metadata waits for space, and the status says so."""
    device = Device(tmp_path, mosquitto.port, state_name="disk/state")
    device.put_in_service()
    topic = str(TrustTopic(FLEET))
    with ear(mosquitto.port) as listener:
        with running(device) as agent:
            worker = agent.serving()
            fill(small_disk)
            worker.kill()
            agent.serving(after=worker)
            agent.kill()
        with running(device) as agent:
            agent.serving()
            agent.wait_for(connected=True)
            files = encode_trust_set(device.simulator.files())
            listener.say(topic, files)
            wait_until(lambda: "cannot be taken in" in agent.status()["metadata_problem"], 30, 0.05)
            (small_disk / "ballast").unlink()
            listener.say(topic, files)
            agent.wait_for(metadata_version=1)
            assert agent.terminate()[0] == ExitCode.OK, agent.log()


@pytest.mark.slow
def test_without_work_it_sleeps(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """Connected and with reports that nobody acknowledges, and again without a broker."""
    device = Device(tmp_path, mosquitto.port)
    with ear(mosquitto.port) as listener, running(device) as agent:
        wait_until(lambda: has_inventory(listener, device), 30)
        assert_idle(agent)
        mosquitto.kill()
        agent.wait_for(connected=False)
        assert_idle(agent)


def assert_idle(agent: AgentProcess, seconds: float = 5.0) -> None:
    process = psutil.Process(agent.process.pid)
    before = process.cpu_times()
    with pytest.raises(subprocess.TimeoutExpired):
        agent.process.wait(seconds)
    after = process.cpu_times()
    used_s = after.user + after.system - before.user - before.system
    assert used_s <= 0.02 * seconds


def test_it_can_be_ended_while_it_starts(tmp_path: Path) -> None:
    device = Device(tmp_path, free_port())
    device.put_in_service()
    with running(device) as agent:
        wait_until((device.state / CONTROL_SOCKET).exists, 30)
        os.kill(agent.process.pid, signal.SIGTERM)
        assert agent.exit_code() in (ExitCode.OK, -signal.SIGTERM)
