"""`packhorse serve` as a process, with real brokers, through crashes of everything."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.trustset import decode_trust_set
from packhorse_agent.trust.keeper import TrustKeeper
from packhorse_agent.trust.view import TrustedView
from packhorse_host.broker import BrokerKind, BrokerNotFoundError, find_broker
from packhorse_host.fleet.database import audit_break, load_audit
from packhorse_host.fleet.devices import load_device
from packhorse_host.fleet.enrol import expel_device
from packhorse_host.fleet.opened import open_fleet
from packhorse_host.fleet.rollouts import choose_bundles, start_rollout
from packhorse_host.repository import Rotation
from packhorse_host.telemetry.ingest import load_drops
from packhorse_host.workspace import SETTINGS_FILE, Workspace
from tests.fakes.fleet import state, window
from tests.helpers import free_port, wait_until
from tests.host.fleet.makers import spec
from tests.integration.controllers import (
    DEVICE,
    FLEET,
    ControllerProcess,
    Device,
    chunks_of,
    figures,
    make_workspace,
    model_blob,
    packhorse,
    waiting,
)
from tests.mosquitto import Mosquitto

Serve = Callable[[Workspace], ControllerProcess]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts controllers that end with the test."""
    started: list[ControllerProcess] = []

    def start(workspace: Workspace) -> ControllerProcess:
        controller = ControllerProcess(workspace)
        controller.start()
        started.append(controller)
        return controller

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def open_device(tmp_path: Path) -> Iterator[Callable[[Workspace], Device]]:
    """Connects devices that end with the test."""
    started: list[Device] = []

    def start(workspace: Workspace) -> Device:
        device = Device(workspace, tmp_path / "device")
        device.start()
        started.append(device)
        return device

    yield start
    for one in started:
        one.stop()


@pytest.fixture(params=list(BrokerKind), ids=lambda kind: kind.value)
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    """One for each kind of embedded broker."""
    try:
        find_broker(request.param)
    except BrokerNotFoundError as error:
        pytest.skip(str(error))
    return make_workspace(tmp_path, request.param.value)


only_mosquitto = pytest.mark.parametrize(
    "workspace", [BrokerKind.MOSQUITTO], ids=["mosquitto"], indirect=True
)


def test_a_device_gets_the_trust_set_and_a_blob_and_its_reports_are_stored(
    workspace: Workspace, serve: Serve, open_device: Callable[[Workspace], Device]
) -> None:
    serve(workspace)
    device = open_device(workspace)
    device.run_until(lambda: device.trust_sets)
    assert "timestamp.json" in decode_trust_set(device.trust_sets[-1])
    device.reporter.report(window(1), window(2), state(1))
    blob = model_blob(workspace)
    device.downloader.want(blob)
    device.run_until(lambda: device.completed == [blob.sha256] and waiting(device) == 0)
    assert device.blobs.path(blob.sha256).stat().st_size == blob.size_bytes
    assert device.downloader.counters.stored == chunks_of(blob)
    (release,) = figures(workspace)
    assert (release.windows, release.requests, release.devices) == (2, 6, 1)


def test_a_killed_controller_loses_nothing_and_stores_nothing_twice(
    workspace: Workspace, serve: Serve, open_device: Callable[[Workspace], Device]
) -> None:
    controller = serve(workspace)
    device = open_device(workspace)
    blob = model_blob(workspace)
    device.downloader.want(blob)
    for number in range(8):
        device.reporter.report(window(number))
        device.run_until(lambda: device.acks > 0)
        if number in (2, 5):
            controller.kill()
            device.reporter.report(window(100 + number))
            controller.start()
    device.run_until(lambda: device.completed == [blob.sha256] and waiting(device) == 0)
    (release,) = figures(workspace)
    assert (release.windows, release.requests) == (10, 30)
    assert device.downloader.counters.stored == chunks_of(blob), "no verified chunk is stored twice"


@only_mosquitto
def test_a_killed_broker_comes_back_with_the_trust_set(
    workspace: Workspace, serve: Serve, open_device: Callable[[Workspace], Device]
) -> None:
    controller = serve(workspace)
    device = open_device(workspace)
    device.run_until(lambda: device.trust_sets)
    (workspace.broker_folder / "mosquitto.db").unlink(missing_ok=True)
    controller.broker.kill()
    controller.restarted_broker()
    device.run_until(lambda: len(device.trust_sets) >= 2)
    device.reporter.report(window(1))
    device.run_until(lambda: waiting(device) == 0)
    assert figures(workspace)[0].windows == 1


@only_mosquitto
def test_what_is_signed_by_another_process_reaches_the_devices(
    workspace: Workspace, serve: Serve, open_device: Callable[[Workspace], Device]
) -> None:
    serve(workspace)
    device = open_device(workspace)
    device.run_until(lambda: device.trust_sets)
    done = packhorse(
        *("rollout", "start", "-w", str(workspace.folder), "--model", "detector", "--release", "1.0"),
        *("--slot", "detector", "--phase", "all:share=100%,soak=1s", "--id", "first", "--json"),
    )
    output, errors = done.communicate(timeout=60)
    assert done.returncode == 0, errors.decode()
    assert json.loads(output)["spec"]["id"] == "first"
    document = "targets/rollouts/rollouts.json"
    device.run_until(lambda: b'"first"' in decode_trust_set(device.trust_sets[-1])[document])


@only_mosquitto
def test_it_knows_who_is_online(
    workspace: Workspace, serve: Serve, open_device: Callable[[Workspace], Device]
) -> None:
    """Enrolled while it runs; what is not the device's is counted, not stored."""
    serve(workspace)
    device = open_device(workspace)
    device.run_until(lambda: device.trust_sets)
    device.send_raw(b"not a report")
    device.say_online()

    def known() -> bool:
        with open_fleet(workspace.folder) as fleet, fleet.database.transaction() as connection:
            online = load_device(connection, DEVICE).online
            return online and load_drops(connection) == {(DEVICE, "malformed"): 1}

    wait_until(known)
    with open_fleet(workspace.folder) as fleet, fleet.database.transaction() as connection:
        assert audit_break(load_audit(connection)) is None


def test_a_removed_device_is_cut_off_at_once_and_does_not_come_back(
    workspace: Workspace, serve: Serve, open_device: Callable[[Workspace], Device]
) -> None:
    serve(workspace)
    device = open_device(workspace)
    device.run_until(lambda: device.trust_sets)
    with open_fleet(workspace.folder) as fleet:
        expel_device(fleet, DEVICE, "test", 1.0)
    device.run_until(lambda: device.refused)


@only_mosquitto
def test_a_running_controller_takes_up_new_keys_and_devices_follow(
    workspace: Workspace, serve: Serve, open_device: Callable[[Workspace], Device], tmp_path: Path
) -> None:
    serve(workspace)
    device = open_device(workspace)
    repository = workspace.repository()
    (tmp_path / "trust").mkdir()
    keeper = TrustKeeper(tmp_path / "trust", repository.root_metadata(), FLEET)

    def accepted() -> TrustedView:
        now = datetime.now(timezone.utc)
        view = keeper.offer(decode_trust_set(device.trust_sets[-1]), lambda _: None, now)
        assert isinstance(view, TrustedView)
        return view

    device.run_until(lambda: device.trust_sets)
    before = accepted().version
    roles = tuple(one.role for one in repository.standings())
    repository.rotate(Rotation(roles, 1, 1, None))
    device.run_until(lambda: accepted().version > before)
    bundles = choose_bundles(repository.releases(), "detector", "1.0", None)
    with open_fleet(workspace.folder) as fleet, fleet.database.transaction() as connection:
        start_rollout(connection, spec(bundles=bundles, approve_empty=True), "test", 1.0)
    device.run_until(lambda: [one.id for one in accepted().rollouts.rollouts] == ["first"])


@only_mosquitto
def test_a_second_controller_is_refused_and_says_who_is_first(workspace: Workspace, serve: Serve) -> None:
    first = serve(workspace)
    second = packhorse("serve", "-w", str(workspace.folder), "--port", str(free_port()))
    _, errors = second.communicate(timeout=60)
    assert second.returncode == ExitCode.CONFLICT
    assert str(first.child.pid) in errors.decode()
    assert first.child.poll() is None


@only_mosquitto
def test_a_taken_port_is_an_error_with_a_way_out(workspace: Workspace, tmp_path: Path) -> None:
    with_port = workspace.settings.broker.port
    (tmp_path / "other").mkdir()
    other = Mosquitto(tmp_path / "other", port=with_port)
    other.start()
    try:
        child = packhorse("serve", "-w", str(workspace.folder))
        _, errors = child.communicate(timeout=60)
    finally:
        other.stop()
    assert child.returncode == ExitCode.ENVIRONMENT
    assert f"port {with_port}" in errors.decode()
    assert "--port" in errors.decode()


@only_mosquitto
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["terminated", "interrupted"])
def test_asked_to_end_it_leaves_no_process_and_can_start_again(
    workspace: Workspace, serve: Serve, number: signal.Signals
) -> None:
    controller = serve(workspace)
    broker = controller.broker
    assert controller.stop(number) == 0
    assert not broker.is_running()
    controller.start()
    assert controller.broker.is_running()


@only_mosquitto
def test_a_broker_of_somebody_else(
    workspace: Workspace, tmp_path: Path, mosquitto: Mosquitto, open_device: Callable[[Workspace], Device]
) -> None:
    settings = workspace.folder / SETTINGS_FILE
    account = f'kind = "external"\nusername = "owner"\npassword_file = "password"\nport = {mosquitto.port}\n'
    settings.write_text(f'fleet = "farm"\n[broker]\n{account}')
    workspace = Workspace.open(workspace.folder)
    refused = packhorse("serve", "-w", str(workspace.folder))
    _, errors = refused.communicate(timeout=60)
    assert refused.returncode == ExitCode.USAGE
    assert "password_file" in errors.decode()
    (workspace.folder / "password").write_text("secret\n")
    child = packhorse("serve", "-w", str(workspace.folder))
    try:
        device = open_device(workspace)
        device.run_until(lambda: device.trust_sets)
        device.reporter.report(window(1))
        device.run_until(lambda: waiting(device) == 0)
    finally:
        os.kill(child.pid, signal.SIGTERM)
        child.communicate(timeout=60)
    assert child.returncode == 0


def test_without_a_workspace_it_says_so(tmp_path: Path) -> None:
    child = packhorse("serve", "-w", str(tmp_path))
    _, errors = child.communicate(timeout=60)
    assert child.returncode == ExitCode.NOT_FOUND
    assert "packhorse init" in errors.decode()
