"""The broker as a process: started, reloaded, killed, orphaned."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.topics import DeviceChannel, DeviceTopic, TrustTopic
from packhorse_host.broker import (
    CONTROLLER_USERNAME,
    BrokerCrashLoopError,
    BrokerKind,
    BrokerReloadError,
    BrokerSettings,
    BrokerStartError,
    BrokerTls,
    CredentialStore,
    EmbeddedBroker,
    PollResult,
    PortTakenError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.host.broker.conftest import Site

    OpenSite = Callable[..., Site]
    Until = Callable[[Callable[[], bool]], None]

TRUST = str(TrustTopic("f"))
DATA = str(DeviceTopic("f", "d1", DeviceChannel.DATA))

CONTROLLER_PROGRAM = """
import signal, sys
from pathlib import Path
from packhorse_host.broker import *
folder = Path(sys.argv[1])
try:
    with EmbeddedBroker(BrokerSettings(folder), CredentialStore(folder), BrokerKind(sys.argv[2])) as broker:
        print(broker.pid, broker.start().port, flush=True)
        signal.pause()
except KeyboardInterrupt:
    sys.exit(130)
"""


def gone(pid: int) -> bool:
    """Whether a process has ended, be it waited for or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def kill(site: Site) -> None:
    pid = site.broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_it_listens_on_the_address_it_names_and_ends_with_its_context(
    kind: BrokerKind, tmp_path: Path, credentials: CredentialStore
) -> None:
    with EmbeddedBroker(BrokerSettings(tmp_path / "broker"), credentials, kind) as broker:
        endpoint = broker.start()
        assert (endpoint.host, str(endpoint)) == ("127.0.0.1", f"127.0.0.1:{endpoint.port}")
        assert broker.is_running()
        assert taken(endpoint.port)
        pid = broker.pid
        assert pid is not None
    assert not broker.is_running()
    assert gone(pid)
    assert not taken(endpoint.port)
    assert broker.start() == endpoint
    broker.stop()
    broker.stop()
    assert broker.poll() is PollResult.UNCHANGED


def test_secrets_are_private_and_hashed(site: Site, tmp_path: Path) -> None:
    files = [one for one in (tmp_path / "broker").iterdir() if one.is_file() and one.name != "broker.log"]
    assert files
    assert (tmp_path / "broker").stat().st_mode & 0o777 == 0o700
    for file in files:
        assert file.stat().st_mode & 0o077 == 0 or file.name == "mosquitto.db"
        assert b"one's" not in file.read_bytes()


def test_many_connections_are_not_stopped_by_the_shells_limit(site: Site) -> None:
    assert site.broker.pid is not None
    soft, hard = psutil.Process(site.broker.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert soft >= min(hard, 65_536)


def test_a_taken_port_is_named_with_the_way_out(
    kind: BrokerKind, tmp_path: Path, credentials: CredentialStore
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        broker = EmbeddedBroker(BrokerSettings(tmp_path / "broker", port=port), credentials, kind)
        with pytest.raises(PortTakenError, match=f"port {port} .* choose another with --port") as caught:
            broker.start()
    assert caught.value.exit_code is ExitCode.ENVIRONMENT
    assert not broker.is_running()
    assert broker.poll() is PollResult.UNCHANGED


def test_an_address_of_another_machine_is_an_error(
    kind: BrokerKind, tmp_path: Path, credentials: CredentialStore
) -> None:
    settings = BrokerSettings(tmp_path / "broker", host="192.0.2.1")
    with pytest.raises(BrokerStartError, match=r"cannot listen on 192\.0\.2\.1"):
        EmbeddedBroker(settings, credentials, kind).start()


def test_a_folder_that_cannot_be_made_is_an_error(
    kind: BrokerKind, tmp_path: Path, credentials: CredentialStore
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerStartError, match="cannot start"):
        EmbeddedBroker(BrokerSettings(tmp_path / "file" / "broker"), credentials, kind).start()


def test_a_broker_that_ends_at_once_is_quoted(
    kind: BrokerKind, tmp_path: Path, credentials: CredentialStore
) -> None:
    (tmp_path / "no.pem").write_text("not a certificate")
    tls = BrokerTls(tmp_path / "no.pem", tmp_path / "no.pem")
    broker = EmbeddedBroker(BrokerSettings(tmp_path / "broker", tls=tls), credentials, kind)
    with pytest.raises(BrokerStartError, match=r"ended at once \(status \d+\):(.|\n)*certificate"):
        broker.start()
    assert not broker.is_running()


def test_a_killed_broker_comes_back_on_its_port_and_clients_with_it(site: Site) -> None:
    device = site.connected("d1", comes_back=True)
    controller = site.connected(CONTROLLER_USERNAME, comes_back=True)
    old_pid = site.broker.pid
    kill(site)
    for client in (device, controller):
        client.wait_for(lambda client=client: client.drops > 0)  # type: ignore[misc]
    result = PollResult.UNCHANGED
    while result is PollResult.UNCHANGED:
        result = site.broker.poll()
    assert result is PollResult.RESTARTED
    assert site.broker.poll() is PollResult.UNCHANGED
    assert site.broker.is_running()
    assert site.broker.pid != old_pid
    for client in (device, controller):
        client.wait_for(lambda client=client: client.connections == 2)  # type: ignore[misc]
    assert device.subscribe(TRUST)
    controller.publish(TRUST, b"again", retain=True)
    device.expect(TRUST, b"again")


def test_an_orderly_stop_keeps_retained_messages_and_sessions(site: Site) -> None:
    controller = site.connected(CONTROLLER_USERNAME)
    controller.publish(TRUST, b"kept", retain=True)
    device = site.connected("d1", clean=False)
    assert device.subscribe(DATA)
    site.broker.stop()
    site.broker.start()
    device = site.connected("d1", clean=False)
    assert device.session_present
    site.connected(CONTROLLER_USERNAME).publish(DATA, b"to the old subscription")
    device.expect(DATA, b"to the old subscription")
    assert device.subscribe(TRUST)
    assert device.expect(TRUST, b"kept").retain


def test_a_broker_that_keeps_dying_is_given_up(
    kind: BrokerKind, tmp_path: Path, credentials: CredentialStore, until: Until
) -> None:
    """Six times within a minute is too often; the same, spread over time, is not."""
    now_s = [0.0]
    broker = EmbeddedBroker(BrokerSettings(tmp_path / "broker"), credentials, kind, lambda: now_s[0])
    with broker:

        def crash(after_s: float) -> PollResult:
            now_s[0] += after_s
            assert broker.pid is not None
            os.kill(broker.pid, signal.SIGKILL)
            until(lambda: not broker.is_running())
            return broker.poll()

        for _ in range(6):
            assert crash(after_s=12.5) is PollResult.RESTARTED
        assert crash(after_s=60.0) is PollResult.RESTARTED
        for _ in range(4):
            assert crash(after_s=1.0) is PollResult.RESTARTED
        with pytest.raises(BrokerCrashLoopError, match="died 6 times within a minute"):
            crash(after_s=1.0)


def test_a_port_lost_while_the_broker_was_down_is_taken_back_when_it_is_free(
    site: Site, until: Until
) -> None:
    kill(site)
    until(lambda: not site.broker.is_running())
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", site.endpoint.port))
        other.listen()
        with pytest.raises(PortTakenError):
            site.broker.poll()
        assert not site.broker.is_running()
    assert site.broker.poll() is PollResult.RESTARTED
    site.connected("d1")


def test_added_and_removed_devices_count_at_once_and_nobody_else_is_dropped(site: Site) -> None:
    stays = site.connected("d1")
    controller = site.connected(CONTROLLER_USERNAME)
    leaves = site.connected("d2")
    assert stays.subscribe(DATA)
    assert not site.client("d9").connect()
    site.credentials.add("d9", "d9's")
    site.credentials.remove("d2")
    site.broker.reload()
    new = site.connected("d9")
    leaves.wait_for(lambda: leaves.drops == 1)
    assert not site.client("d2").connect()
    new.publish(str(DeviceTopic("f", "d9", DeviceChannel.REPORT)), b"hello")
    controller.publish(DATA, b"still here")
    stays.expect(DATA, b"still here")
    assert (stays.drops, controller.drops) == (0, 0)


def test_poll_takes_up_what_another_process_enrolled(site: Site, tmp_path: Path) -> None:
    assert site.broker.poll() is PollResult.UNCHANGED
    CredentialStore(tmp_path / "broker").add("d9", "d9's")
    assert site.broker.poll() is PollResult.RELOADED
    assert site.broker.poll() is PollResult.UNCHANGED
    site.connected("d9")


def test_a_changed_password_ends_the_connections_that_used_the_old_one(site: Site) -> None:
    stays, device = site.connected("d2"), site.connected("d1")
    site.credentials.add("d1", "another")
    site.broker.reload()
    device.wait_for(lambda: device.drops == 1)
    assert not site.client("d1").connect()
    assert stays.drops == 0


def test_a_broker_without_users_lets_nobody_in(open_site: OpenSite, tmp_path: Path) -> None:
    """An empty list of users must not mean that everybody is welcome."""
    site = open_site(CredentialStore(tmp_path / "broker"))
    assert not site.client("d1").connect()
    nobody = site.client("d1", client_id="nobody")
    nobody.paho.username_pw_set(None)
    assert not nobody.connect()
    site.credentials.add("d1", "one's")
    site.broker.reload()
    site.connected("d1")


def test_reloading_a_broker_that_does_not_run_is_an_error(
    kind: BrokerKind, tmp_path: Path, credentials: CredentialStore
) -> None:
    broker = EmbeddedBroker(BrokerSettings(tmp_path / "broker"), credentials, kind)
    with pytest.raises(BrokerReloadError, match="not running"):
        broker.reload()


def test_a_thread_that_started_the_broker_may_end(
    kind: BrokerKind, tmp_path: Path, credentials: CredentialStore
) -> None:
    broker = EmbeddedBroker(BrokerSettings(tmp_path / "broker"), credentials, kind)
    starter = threading.Thread(target=broker.start)
    starter.start()
    starter.join()
    with broker:
        assert broker.pid is not None
        with pytest.raises(psutil.TimeoutExpired):
            psutil.Process(broker.pid).wait(timeout=0.3)


def controller_process(kind: BrokerKind, folder: Path) -> tuple[subprocess.Popen[str], int, int]:
    """A controller of its own process group, its broker's pid and port."""
    process = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER_PROGRAM, str(folder), kind.value],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert process.stdout is not None
    pid, port = process.stdout.readline().split()
    return process, int(pid), int(port)


def test_a_killed_controller_leaves_no_broker_behind(
    kind: BrokerKind, tmp_path: Path, credentials: CredentialStore, until: Until
) -> None:
    process, pid, port = controller_process(kind, tmp_path / "broker")
    with process:
        assert taken(port)
        process.kill()
    until(lambda: gone(pid) and not taken(port))


def test_a_port_that_a_dying_broker_still_holds_is_waited_for(
    kind: BrokerKind, tmp_path: Path, credentials: CredentialStore
) -> None:
    """As when a controller is killed and started again at once."""
    with socket.socket() as dying:
        dying.bind(("127.0.0.1", 0))
        dying.listen()
        port = dying.getsockname()[1]
        broker = EmbeddedBroker(BrokerSettings(tmp_path / "broker", port=port), credentials, kind)
        ends = threading.Timer(0.2, dying.close)
        ends.start()
        with broker:
            ends.join()
            assert broker.start().port == port


def test_ctrl_c_ends_both_without_a_word(
    kind: BrokerKind, tmp_path: Path, credentials: CredentialStore
) -> None:
    process, pid, _ = controller_process(kind, tmp_path / "broker")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=15)
    assert (process.returncode, out, err) == (130, "", "")
    assert gone(pid)
