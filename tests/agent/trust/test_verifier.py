"""The verifier: a keeper in a process of its own; what befalls it stays there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from packhorse_agent.errors import UntrustedError
from packhorse_agent.store.errors import StorageFaultError
from packhorse_agent.trust.errors import (
    BadSignatureError,
    ExpiredMetadataError,
    MalformedMetadataError,
    OlderMetadataError,
    WrongFleetError,
)
from packhorse_agent.trust.ports import NeedsBlobs, TargetInfo, View
from packhorse_agent.trust.verifier import Verifier, VerifierError
from tests.agent.trust.simulator import FLEET, MANIFEST, MANIFEST_PATH, NOW, FleetSimulator, no_blobs, sha256
from tests.helpers import wait_until

Make = Callable[..., Verifier]


@pytest.fixture
def make(fleet: FleetSimulator, tmp_path: Path) -> Iterator[Make]:
    made: list[Verifier] = []

    def make_one(name: str = FLEET, **options: object) -> Verifier:
        made.append(Verifier(tmp_path / "trust", fleet.roots[0], name, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make_one
    for each in made:
        each.rest()


def accept(verifier: Verifier, files: dict[str, bytes]) -> View:
    view = verifier.offer(files, no_blobs, NOW)
    assert not isinstance(view, NeedsBlobs)
    return view


def test_it_accepts_and_says_what_the_metadata_says(fleet: FleetSimulator, make: Make) -> None:
    fleet.tags["edge-1"] = ("canary",)
    view = accept(make(), fleet.publish("rollouts"))
    assert view.rollouts == fleet.rollouts_document
    assert (view.version, view.expired) == (fleet.timestamp.version, False)
    assert view.expires == min(fleet.timestamp.expires, fleet.roles["rollouts"].expires)
    assert view.issued_at == fleet.at(days=-10)
    assert view.tags("edge-1") == frozenset({"canary"})
    assert view.tags("edge-2") == frozenset()
    assert view.resolve(MANIFEST_PATH) == TargetInfo(sha256(MANIFEST), len(MANIFEST), "0")
    assert view.resolve("bundles/detector/9/none/fp32/manifest.json") is None


def test_nothing_is_current_before_something_was_accepted(make: Make) -> None:
    assert make().current(NOW, no_blobs) is None


def test_what_was_accepted_is_current_for_the_next_one(fleet: FleetSimulator, make: Make) -> None:
    accept(make(), fleet.files())
    view = make().current(NOW, no_blobs)
    assert view is not None
    assert view.version == fleet.timestamp.version


def test_it_is_gone_while_nothing_is_asked_and_back_when_something_is(
    fleet: FleetSimulator, make: Make
) -> None:
    verifier = make()
    view = accept(verifier, fleet.files())
    pid = verifier.pid
    assert pid is not None
    verifier.rest()
    assert (verifier.pid, psutil.pid_exists(pid)) == (None, False)
    assert isinstance(view.resolve(MANIFEST_PATH), TargetInfo)
    verifier.rest()
    assert isinstance(view.resolve(MANIFEST_PATH), TargetInfo)
    assert verifier.pid is None, "an answer that was given once is kept"


def test_metadata_that_the_device_has_pulled_goes_to_it(fleet: FleetSimulator, make: Make) -> None:
    files = fleet.files("snapshot", "targets", "rollouts", "model")
    verifier = make()
    needed = verifier.offer(files, no_blobs, NOW)
    assert isinstance(needed, NeedsBlobs)
    assert [blob.sha256 for blob in needed.blobs] == [sha256(fleet.signed["snapshot"])]
    have = fleet.blobs()
    view = verifier.offer(files, have.get, NOW)
    assert not isinstance(view, NeedsBlobs)
    assert isinstance(view.resolve(MANIFEST_PATH), TargetInfo)


def test_a_model_role_that_is_not_there_is_asked_for(fleet: FleetSimulator, make: Make) -> None:
    have: dict[str, bytes] = {}
    view = make().offer(fleet.files("model"), have.get, NOW)
    assert not isinstance(view, NeedsBlobs)
    needed = view.resolve(MANIFEST_PATH)
    assert isinstance(needed, NeedsBlobs)
    assert [blob.sha256 for blob in needed.blobs] == [sha256(fleet.signed["model-detector"])]
    have |= fleet.blobs()
    assert isinstance(view.resolve(MANIFEST_PATH), TargetInfo)


def _forged(fleet: FleetSimulator) -> dict[str, bytes]:
    fleet.replace_key("timestamp")
    return {**fleet.files(), "timestamp.json": fleet.sign("timestamp", fleet.timestamp)}


@pytest.mark.parametrize(
    ("offered", "later_days", "error"),
    [
        (lambda fleet: fleet.files(), 2, ExpiredMetadataError),
        (lambda fleet: {**fleet.files(), "timestamp.json": b"[["}, 0, MalformedMetadataError),
        (_forged, 0, BadSignatureError),
    ],
    ids=["frozen", "garbage", "forged"],
)
def test_a_refusal_comes_back_as_what_it_is(
    fleet: FleetSimulator,
    make: Make,
    offered: Callable[[FleetSimulator], dict[str, bytes]],
    later_days: float,
    error: type[UntrustedError],
) -> None:
    verifier = make()
    accept(verifier, fleet.publish("rollouts"))
    with pytest.raises(error) as caught:
        verifier.offer(offered(fleet), no_blobs, NOW + timedelta(days=later_days))
    assert type(caught.value) is error
    assert verifier.current(NOW, no_blobs) is not None


def test_older_metadata_and_that_of_another_fleet_are_refused(fleet: FleetSimulator, make: Make) -> None:
    old = fleet.files()
    verifier = make()
    accept(verifier, fleet.publish("rollouts"))
    with pytest.raises(OlderMetadataError):
        verifier.offer(old, no_blobs, NOW)
    with pytest.raises(WrongFleetError):
        make("others").offer(fleet.publish("rollouts"), no_blobs, NOW)


def test_a_disk_that_fails_is_not_the_metadatas_fault(
    fleet: FleetSimulator, make: Make, tmp_path: Path
) -> None:
    verifier = make()
    accept(verifier, fleet.files())
    verifier.rest()
    pointer = tmp_path / "trust" / "accepted.json"
    pointer.unlink()
    pointer.mkdir()
    with pytest.raises(StorageFaultError):
        verifier.offer(fleet.publish("rollouts"), no_blobs, NOW)


def test_a_killed_verifier_is_an_error_once_and_replaced(fleet: FleetSimulator, make: Make) -> None:
    verifier = make()
    accept(verifier, fleet.files())
    assert verifier.pid is not None
    process = psutil.Process(verifier.pid)
    os.kill(verifier.pid, signal.SIGKILL)
    wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE)
    with pytest.raises(VerifierError):
        verifier.current(NOW, no_blobs)
    assert verifier.pid is None
    assert verifier.current(NOW, no_blobs) is not None


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ((sys.executable, "-c", "import time; time.sleep(60)"), "does not answer"),
        ((sys.executable, "-c", "raise SystemExit(9)"), "verifier of metadata"),
        (("/nowhere/python",), "does not answer"),
    ],
    ids=["hangs", "ends", "is missing"],
)
def test_one_that_does_not_answer_is_an_error_in_time(
    make: Make, command: tuple[str, ...], says: str
) -> None:
    verifier = make(command=command, timeout_s=1.0)
    with pytest.raises(VerifierError, match=says):
        verifier.current(NOW, no_blobs)
    assert verifier.pid is None


def test_what_it_says_is_bounded(make: Make) -> None:
    endless = (
        "import socket, sys\n"
        "stream = socket.socket(fileno=int(sys.argv[2]))\n"
        "stream.sendall(b'\\xff' * 64)\n"
        "stream.recv(1)\n"
    )
    verifier = make(command=(sys.executable, "-c", endless), timeout_s=20.0)
    with pytest.raises(VerifierError, match="at most"):
        verifier.current(NOW, no_blobs)


def test_it_ends_with_the_process_that_started_it(fleet: FleetSimulator, tmp_path: Path) -> None:
    root = tmp_path / "root.json"
    root.write_bytes(fleet.roots[0])
    script = (
        "import os, signal, sys\n"
        "from datetime import datetime, timezone\n"
        "from pathlib import Path\n"
        "from packhorse_agent.trust.verifier import Verifier\n"
        "verifier = Verifier(Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), 'f')\n"
        "verifier.current(datetime.now(timezone.utc), lambda sha: None)\n"
        "print(verifier.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "trust"), str(root)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    wait_until(lambda: not psutil.pid_exists(int(ended.stdout)))
