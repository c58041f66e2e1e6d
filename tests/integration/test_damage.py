"""Bits that turned on a disk, the host's or the device's, with real processes between."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from packhorse_agent.contract.states import DeploymentState, FailureReason
from packhorse_host.fleet.opened import open_fleet
from packhorse_host.fleet.rollouts import resume_rollout
from tests.helpers import wait_until
from tests.integration.fleet import DEADLINE_S, Fleet, running_fleet
from tests.integration.test_whole_way import assert_answers_right, start_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

MIB = 1024 * 1024


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with running_fleet(tmp_path) as running:
        yield running


def damage_largest(blobs: Path) -> Path:
    """Turn one bit in the middle of the model; its size and its name stay."""
    path = max(blobs.iterdir(), key=lambda path: path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    return path


def test_a_file_damaged_on_the_host_fails_at_once_and_publishing_again_mends_it(fleet: Fleet) -> None:
    agent = fleet.enrol("device-1")
    fleet.publish("1.0")
    start_all(fleet)
    fleet.wait_for(fleet.roll_out("1.0"), "completed")
    fleet.publish("2.0", ballast_bytes=MIB)
    damaged = damage_largest(fleet.workspace.repository_folder / "blobs")
    rollout = fleet.roll_out("2.0")
    record = fleet.wait_for(rollout, "paused")
    assert "download_not_found" in record.reason
    assert agent.serves("1.0")
    assert_answers_right(agent)
    assert fleet.history("device-1")[0].reason is FailureReason.DOWNLOAD_NOT_FOUND
    assert f"{damaged} is damaged: chunk " in fleet.controller.log()

    with open_fleet(fleet.workspace.folder) as opened:
        opened.repository.publish([fleet.folder / "bundle-2.0"])
        with opened.database.transaction() as connection:
            resume_rollout(connection, rollout, "test", time.time())
    fleet.wait_for(rollout, "completed")
    assert agent.serves("2.0")
    assert_answers_right(agent)


def test_a_bundle_damaged_under_its_device_is_fetched_again(fleet: Fleet) -> None:
    agent = fleet.enrol("device-1")
    fleet.publish("1.0", ballast_bytes=MIB)
    start_all(fleet)
    fleet.wait_for(fleet.roll_out("1.0"), "completed")
    path = damage_largest(agent.state / "blobs")
    with path.open("r+b") as file:
        file.write(bytes(4096))  # so that it does not load any more
    worker = agent.slot()["pid"]
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: agent.slot().get("pid") not in (None, worker) and agent.serves("1.0"), DEADLINE_S, 0.1)
    assert_answers_right(agent)

    def reported() -> bool:
        said = [(one.state, one.reason) for one in fleet.history("device-1")[:2]]
        committed = DeploymentState.COMMITTED
        return said == [(committed, None), (committed, FailureReason.DIGEST_MISMATCH)]

    wait_until(reported, DEADLINE_S, 0.1)
