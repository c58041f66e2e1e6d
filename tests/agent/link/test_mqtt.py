"""The link against real brokers: what must hold when all is well, and when something breaks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import MQTTErrorCode

from packhorse_agent.link import LinkDown, LinkEvent, LinkUp, Message, Subscription, TlsSettings
from packhorse_host.broker import BrokerKind, BrokerTls, EmbeddedBroker
from tests.agent.link.conftest import (
    DATA_TOPIC,
    DEVICE,
    FLEET,
    LINK_TOPIC,
    OFFLINE,
    ONLINE,
    REPORT_TOPIC,
    TRUST_TOPIC,
    Ear,
    Links,
    controller,
    device,
)
from tests.authority import Authority
from tests.fakes.relay import Relay
from tests.helpers import free_port, wait_until

OpenBroker = Callable[..., EmbeddedBroker]

only_mosquitto = pytest.mark.parametrize("kind", [BrokerKind.MOSQUITTO], ids=["mosquitto"], indirect=True)
only_nats = pytest.mark.parametrize("kind", [BrokerKind.NATS], ids=["nats"], indirect=True)


def test_it_speaks_the_newest_protocol_that_the_broker_knows(
    kind: BrokerKind, port: int, links: Links
) -> None:
    ear = links.open(device(port)).ear
    assert ear.expect(LinkUp).protocol == ("5" if kind is BrokerKind.MOSQUITTO else "3.1.1")
    downs = [event.reason for event in ear.all(LinkDown)]
    assert len(downs) <= 1, "it tries the older protocol at once"
    assert all("Unsupported protocol version" in reason for reason in downs)


@pytest.mark.parametrize("qos", [0, 1])
def test_payloads_up_to_the_limit_arrive_whole(port: int, links: Links, qos: int) -> None:
    receiver, sender = links.open(device(port)), links.open(controller(port))
    receiver.ear.expect(LinkUp)
    sender.ear.expect(LinkUp)
    payload = os.urandom(128 * 1024)
    assert sender.link.publish(DATA_TOPIC, payload, qos=1 if qos else 0)
    assert receiver.ear.expect(Message) == Message(DATA_TOPIC, payload)


@only_mosquitto
def test_one_thread_writes_or_packets_would_be_torn(
    port: int, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large packet is written in parts; another writer would put an acknowledgement between them."""
    writers: set[str] = set()
    write = paho.Client.loop_write

    def loop_write(client: paho.Client) -> MQTTErrorCode:
        writers.add(threading.current_thread().name)
        return write(client)

    monkeypatch.setattr(paho.Client, "loop_write", loop_write)
    opened = links.open(device(port))
    opened.ear.expect(LinkUp)
    assert opened.link.publish(REPORT_TOPIC, bytes(64 * 1024), qos=0)
    assert writers == {"mqtt-link"}


def test_both_directions_at_once_mix_nothing_up(port: int, links: Links) -> None:
    here, there = links.open(device(port)), links.open(controller(port))
    here.ear.expect(LinkUp)
    there.ear.expect(LinkUp)
    chunks = [bytes([number]) * 128 * 1024 for number in range(100)]
    for chunk in chunks:
        wait_until(lambda: here.link.ready and there.link.ready)
        assert there.link.publish(TRUST_TOPIC, chunk, qos=1)
        assert here.link.publish(REPORT_TOPIC, chunk, qos=1)
    wait_until(lambda: len(here.ear.payloads(TRUST_TOPIC)) >= 100)
    wait_until(lambda: len(there.ear.payloads(REPORT_TOPIC)) >= 100)
    assert sorted(here.ear.payloads(TRUST_TOPIC)) == chunks
    assert sorted(there.ear.payloads(REPORT_TOPIC)) == chunks
    assert len(here.ear.all(LinkUp)) == len(there.ear.all(LinkUp)) == 1


def test_what_is_retained_comes_with_the_connection(port: int, links: Links) -> None:
    sender = links.open(controller(port))
    sender.ear.expect(LinkUp)
    sender.link.publish(TRUST_TOPIC, b"trust", qos=1, retain=True)
    assert links.open(device(port)).ear.expect(Message) == Message(TRUST_TOPIC, b"trust")


def test_a_device_says_that_it_is_there_and_that_it_leaves(port: int, links: Links) -> None:
    watcher = links.open(controller(port)).ear
    watcher.expect(LinkUp)
    gone = links.open(device(port))
    wait_until(lambda: watcher.payloads(LINK_TOPIC) == [ONLINE])
    gone.link.stop()
    wait_until(lambda: watcher.payloads(LINK_TOPIC) == [ONLINE, OFFLINE])
    assert not gone.link.connected


_CHILD = """
import sys, threading
from packhorse_agent.link import LinkUp, MqttLink
from packhorse_agent.link.backoff import Backoff
from tests.agent.link.conftest import device

def post(event):
    if isinstance(event, LinkUp):
        print("up", flush=True)

MqttLink(device(int(sys.argv[1])), post, Backoff()).start()
threading.Event().wait()
"""


def test_the_broker_says_offline_for_a_killed_process(port: int, links: Links) -> None:
    watcher = links.open(controller(port)).ear
    watcher.expect(LinkUp)
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(port)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        wait_until(lambda: ONLINE in watcher.payloads(LINK_TOPIC))
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    wait_until(lambda: OFFLINE in watcher.payloads(LINK_TOPIC))


def test_a_cut_connection_comes_back_and_says_so(port: int, links: Links) -> None:
    watcher = links.open(controller(port)).ear
    watcher.expect(LinkUp)
    with Relay(port) as relay:
        ear = links.open(device(relay.port)).ear
        ear.expect(LinkUp)
        wait_until(lambda: watcher.payloads(LINK_TOPIC)[-1:] == [ONLINE])
        ups = len(ear.all(LinkDown))
        relay.cut()
        assert "lost" in ear.expect(LinkDown, ups + 1).reason
        ear.expect(LinkUp, 2)
        wait_until(lambda: watcher.payloads(LINK_TOPIC)[-1:] == [ONLINE])
        wait_until(lambda: watcher.payloads(LINK_TOPIC).count(ONLINE) >= 2)
        links.close()


def test_it_outlives_the_broker(broker: EmbeddedBroker, port: int, links: Links) -> None:
    opened = links.open(device(port))
    opened.ear.expect(LinkUp)
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGKILL)
    wait_until(lambda: not broker.is_running())
    wait_until(lambda: len(opened.ear.all(LinkDown)) >= 4)
    assert not opened.link.publish(REPORT_TOPIC, b"nobody there", qos=1)
    assert all(0.01 <= down.retry_in_s <= 0.05 for down in opened.ear.all(LinkDown))
    assert any("refused" in down.reason for down in opened.ear.all(LinkDown))
    broker.poll()
    opened.ear.expect(LinkUp, 2)
    receiver = links.open(controller(port)).ear
    receiver.expect(LinkUp)
    assert opened.link.publish(REPORT_TOPIC, b"here again", qos=1)
    wait_until(lambda: receiver.payloads(REPORT_TOPIC) == [b"here again"])


def test_a_wrong_password_is_said_so(port: int, links: Links) -> None:
    opened = links.open(device(port, password="wrong"))
    wait_until(lambda: any("Not authorized" in down.reason for down in opened.ear.all(LinkDown)))
    assert not opened.ear.all(LinkUp)
    assert not opened.link.connected


def test_without_a_broker_it_says_where_it_looked(links: Links) -> None:
    nobody = free_port()
    opened = links.open(device(nobody))
    reason = opened.ear.expect(LinkDown).reason
    assert f"127.0.0.1:{nobody}" in reason
    assert "refused" in reason


def test_a_name_that_nobody_has_is_no_more_than_a_reason(links: Links) -> None:
    opened = links.open(device(1883, host="nowhere.invalid"))
    assert "nowhere.invalid" in opened.ear.expect(LinkDown, 2).reason


def test_a_server_that_says_nothing_is_given_up(links: Links) -> None:
    with Relay(None) as silent:
        opened = links.open(device(silent.port, connect_timeout_s=0.2))
        assert "does not answer" in opened.ear.expect(LinkDown, 2).reason


def test_a_server_that_talks_nonsense_is_survived(links: Links) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        opened = links.open(device(server.getsockname()[1]))
        for answer in (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x20\x03\x00\x00\xff",
            b"\x20\xff\xff\xff\xff\xff",
        ):
            connection, _ = server.accept()
            connection.sendall(answer)
            connection.close()
        opened.ear.expect(LinkDown, 3)
        assert not opened.ear.all(LinkUp)


@only_nats
def test_a_refused_subscription_names_the_topic(port: int, links: Links) -> None:
    wanted = (Subscription(TRUST_TOPIC, 1), Subscription(f"ph/1/{FLEET}/device/another/data", 0))
    opened = links.open(device(port, subscriptions=wanted))
    wait_until(lambda: any("listen to" in down.reason for down in opened.ear.all(LinkDown)))
    reason = next(down.reason for down in opened.ear.all(LinkDown) if "listen to" in down.reason)
    assert "device/another/data" in reason
    assert TRUST_TOPIC not in reason
    assert not opened.ear.all(LinkUp)


def test_a_link_may_only_speak(port: int, links: Links) -> None:
    opened = links.open(device(port, subscriptions=()))
    opened.ear.expect(LinkUp)
    assert opened.link.publish(REPORT_TOPIC, b"x", qos=1)


@only_mosquitto
def test_a_receiver_that_raises_does_not_end_the_link(port: int, links: Links) -> None:
    def fails(event: LinkEvent) -> bool:
        return isinstance(event, (LinkUp, LinkDown)) or (
            isinstance(event, Message) and event.payload == b"bad"
        )

    opened, sender = links.open(device(port), Ear(breaks=fails)), links.open(controller(port))
    opened.ear.expect(LinkUp)
    sender.ear.expect(LinkUp)
    for payload in (b"bad", b"good"):
        sender.link.publish(DATA_TOPIC, payload, qos=0)
    wait_until(lambda: opened.ear.payloads(DATA_TOPIC) == [b"bad", b"good"])
    assert opened.link.connected


def test_without_a_connection_nothing_is_taken(links: Links) -> None:
    opened = links.make(device(free_port()))
    assert not opened.link.publish(REPORT_TOPIC, b"x", qos=1)
    assert not opened.link.ready


@only_mosquitto
def test_it_says_when_it_would_only_pile_up(port: int, links: Links) -> None:
    with Relay(port) as relay:
        opened = links.open(device(relay.port))
        opened.ear.expect(LinkUp)
        wait_until(lambda: opened.link.ready)
        relay.hold()
        sent = 0
        while opened.link.ready:
            assert opened.link.publish(REPORT_TOPIC, bytes(64 * 1024), qos=0)
            sent += 1
            assert sent < 1000, "it takes without end"
        relay.release()
        wait_until(lambda: opened.link.ready)
        links.close()


def test_stop_ends_the_thread_whatever_the_link_does(port: int, links: Links) -> None:
    with Relay(None) as silent:
        for target in (port, free_port(), silent.port):
            opened = links.open(device(target, connect_timeout_s=1.0))
            wait_until(lambda: any(one.name == "mqtt-link" for one in threading.enumerate()))
            opened.link.stop()
            opened.link.stop()
            assert not any(one.name == "mqtt-link" for one in threading.enumerate())
    links.make(device(port)).link.stop()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_tls_with_a_client_certificate(open_broker: OpenBroker, authority: Authority, links: Links) -> None:
    certificate_file, key_file = authority.issue("broker")
    broker = open_broker(BrokerTls(certificate_file, key_file, authority.file, True))
    port = broker.start().port
    identity = authority.issue(DEVICE)
    links.open(device(port, tls=TlsSettings(authority.file, *identity))).ear.expect(LinkUp)


def test_a_missing_client_certificate_is_hinted_at(
    open_broker: OpenBroker, authority: Authority, links: Links
) -> None:
    certificate_file, key_file = authority.issue("broker")
    broker = open_broker(BrokerTls(certificate_file, key_file, authority.file, True))
    opened = links.open(device(broker.start().port, tls=TlsSettings(authority.file)))
    assert "certificate" in opened.ear.expect(LinkDown).reason
    assert not opened.ear.all(LinkUp)


@only_mosquitto
def test_a_broker_of_another_authority_is_refused(
    open_broker: OpenBroker, authority: Authority, links: Links, tmp_path: Path
) -> None:
    broker = open_broker(BrokerTls(*authority.issue("broker")))
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    opened = links.open(device(broker.start().port, tls=TlsSettings(other.file)))
    assert "certificate verify failed" in opened.ear.expect(LinkDown).reason
    missing = links.open(device(broker.start().port, tls=TlsSettings(tmp_path / "none.pem")))
    assert "No such file" in missing.ear.expect(LinkDown).reason
