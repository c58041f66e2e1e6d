"""What the broker does for clients, alike on every kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from packhorse_agent.contract.topics import BlobTopic, DeviceChannel, DeviceTopic, TrustTopic, WantTopic
from packhorse_host.broker import CONTROLLER_USERNAME, BrokerKind

if TYPE_CHECKING:
    from tests.host.broker.conftest import Client, Site

FLEET = "f.1"
TRUST = str(TrustTopic(FLEET))
BLOB = str(BlobTopic(FLEET, "ab" * 32))
AWKWARD = "d.3-x..y_"


def topic(device: str, channel: DeviceChannel) -> str:
    return str(DeviceTopic(FLEET, device, channel))


def want(device: str) -> str:
    return str(WantTopic(FLEET, 3, device))


def hears(site: Site, listener: Client, device: str, qos: int) -> list[str]:
    """The topics that a listener has got, once all that was sent before has passed through."""
    fence = topic(device, DeviceChannel.DATA)
    site.connected(CONTROLLER_USERNAME, client_id="fence").publish(fence, b"fence", qos)
    listener.expect(fence, b"fence")
    return [one.topic for one in listener.received if one.payload != b"fence"]


def test_only_known_usernames_with_their_password_come_in(site: Site) -> None:
    for username, password in (
        (None, None),
        ("d1", None),
        ("d1", "two's"),
        ("d1", ""),
        ("nobody", "one's"),
        ("D1", "one's"),
    ):
        client = site.client("d1", client_id="stranger")
        client.paho.username_pw_set(username, password)
        assert not client.connect(), (username, password)
    site.connected("d1")


def test_mqtt_5_is_spoken_by_mosquitto_and_refused_cleanly_by_nats(site: Site) -> None:
    accepted = site.client("d1", protocol=MQTTProtocolVersion.MQTTv5).connect()
    assert accepted == (site.broker.kind is BrokerKind.MOSQUITTO)


@pytest.mark.parametrize("device", ["d1", AWKWARD])
@pytest.mark.parametrize("qos", [0, 1])
def test_a_device_and_the_controller_reach_each_other(site: Site, device: str, qos: int) -> None:
    controller = site.connected(CONTROLLER_USERNAME)
    assert controller.subscribe(str(DeviceTopic(FLEET, "+", DeviceChannel.REPORT)), qos)
    assert controller.subscribe(WantTopic.filter(FLEET), qos)
    client = site.connected(device)
    down = [TRUST, BLOB, topic(device, DeviceChannel.DATA), topic(device, DeviceChannel.ACK)]
    for one in (TRUST, BLOB, f"ph/1/{FLEET}/device/{device}/#"):
        assert client.subscribe(one, qos)
    for one in down:
        controller.publish(one, b"down", qos)
    for one in down:
        assert client.expect(one, b"down").qos == qos
    for one in (topic(device, DeviceChannel.REPORT), want(device)):
        client.publish(one, b"up", qos)
        assert controller.expect(one, b"up").qos == qos


@pytest.mark.parametrize("qos", [0, 1])
def test_what_a_device_may_not_publish_reaches_nobody(site: Site, qos: int) -> None:
    """Not even by last will or as a retained message; the acknowledgement says nothing."""
    controller = site.connected(CONTROLLER_USERNAME)
    assert controller.subscribe("ph/1/#", qos)
    device = site.connected("d1", will=(topic("d2", DeviceChannel.LINK), b"evil"))
    others = [topic("d2", one) for one in DeviceChannel]
    own_but_deeper = f"ph/1/{FLEET}/want/3/d1/more"
    for foreign in (*others, TRUST, BLOB, want("d2"), own_but_deeper, "ph/1/d1", "d1", "$SYS/d1"):
        device.publish(foreign, b"evil", qos)
        device.publish(foreign, b"evil", qos, retain=True)
    assert device.drops == 0
    device.publish(topic("d1", DeviceChannel.REPORT), b"good", qos)
    controller.expect(topic("d1", DeviceChannel.REPORT), b"good")
    device.vanish()
    again = site.connected("d1")
    again.publish(topic("d1", DeviceChannel.REPORT), b"again", qos)
    controller.expect(topic("d1", DeviceChannel.REPORT), b"again")
    assert [one.payload for one in controller.received] == [b"good", b"again"]


FOREIGN_FILTERS = (
    "#",
    "ph/#",
    "ph/1/#",
    "+/+/+/+/+/+",
    f"ph/1/{FLEET}/device/+/#",
    f"ph/1/{FLEET}/device/d2/#",
    f"ph/1/{FLEET}/want/+/+",
    f"ph/1/{FLEET}/want/3/d1",
    "$MQTT/#",
    "$MQTT/sub/#",
    "$MQTT/sub/+",
    "$SYS/#",
)


@pytest.mark.parametrize("qos", [0, 1])
def test_what_a_device_may_not_hear_does_not_reach_it(site: Site, qos: int) -> None:
    """Mosquitto grants such a subscription and filters; NATS refuses it."""
    controller = site.connected(CONTROLLER_USERNAME)
    controller.publish(topic("d2", DeviceChannel.LINK), b"retained", retain=True)
    device = site.connected("d1")
    says_yes = site.broker.kind is BrokerKind.MOSQUITTO
    assert [device.subscribe(one, qos) for one in FOREIGN_FILTERS] == [says_yes] * len(FOREIGN_FILTERS)
    assert device.subscribe(topic("d1", DeviceChannel.DATA), qos)
    victim = site.connected("d2")
    assert victim.subscribe(topic("d2", DeviceChannel.DATA), qos)
    for foreign in (topic("d2", DeviceChannel.DATA), want("d2"), want("d1")):
        controller.publish(foreign, b"secret", qos)
    victim.expect(topic("d2", DeviceChannel.DATA), b"secret")
    assert hears(site, device, "d1", qos) == []


def test_a_retained_message_waits_for_its_subscriber_and_can_be_taken_back(site: Site) -> None:
    controller = site.connected(CONTROLLER_USERNAME)
    controller.publish(TRUST, b"set 1", retain=True)
    controller.publish(TRUST, b"set 2", retain=True)
    late = site.connected("d1")
    assert late.subscribe(TRUST)
    assert late.expect(TRUST, b"set 2").retain
    controller.publish(TRUST, b"", retain=True)
    controller.publish(TRUST, b"not kept")
    later = site.connected("d2")
    assert later.subscribe(TRUST)
    assert later.subscribe(topic("d2", DeviceChannel.DATA))
    assert hears(site, later, "d2", 1) == []
    assert [one.payload for one in late.received] == [b"set 2", b"", b"not kept"]


def test_the_last_will_speaks_for_a_device_that_vanished_only(site: Site) -> None:
    controller = site.connected(CONTROLLER_USERNAME)
    assert controller.subscribe(str(DeviceTopic(FLEET, "+", DeviceChannel.LINK)))
    link = topic("d1", DeviceChannel.LINK)
    site.connected("d2", will=(topic("d2", DeviceChannel.LINK), b"offline")).leave()
    site.connected("d1", will=(link, b"offline")).vanish()
    controller.expect(link, b"offline")
    assert [one.topic for one in controller.received] == [link]
    late = site.connected(CONTROLLER_USERNAME, client_id="late")
    assert late.subscribe(link)
    assert late.expect(link, b"offline").retain


@pytest.mark.parametrize("qos", [0, 1])
def test_130_kb_pass_either_way(site: Site, qos: int) -> None:
    payload = bytes(range(256)) * 520
    controller = site.connected(CONTROLLER_USERNAME)
    device = site.connected("d1")
    assert device.subscribe(TRUST, qos)
    assert controller.subscribe(topic("d1", DeviceChannel.REPORT), qos)
    controller.publish(TRUST, payload, qos)
    device.publish(topic("d1", DeviceChannel.REPORT), payload, qos)
    device.expect(TRUST, payload)
    controller.expect(topic("d1", DeviceChannel.REPORT), payload)


def test_a_message_beyond_the_limit_costs_its_sender_the_connection(site: Site) -> None:
    controller = site.connected(CONTROLLER_USERNAME)
    device = site.connected("d1")
    device.paho.publish(topic("d1", DeviceChannel.REPORT), bytes(300 * 1024), 0)
    device.wait_for(lambda: device.drops > 0)
    assert controller.drops == 0


def test_a_persistent_session_keeps_what_came_at_qos_1(site: Site) -> None:
    controller = site.connected(CONTROLLER_USERNAME)
    ack = topic("d1", DeviceChannel.ACK)
    device = site.connected("d1", clean=False)
    assert not device.session_present
    assert device.subscribe(ack)
    site.departed(device)
    controller.publish(ack, b"while away")
    device = site.connected("d1", clean=False)
    assert device.session_present
    assert device.expect(ack, b"while away").qos == 1


def test_a_session_is_no_way_to_the_messages_of_another_device(site: Site) -> None:
    """A device that takes another's client id disconnects it, but hears nothing."""
    controller = site.connected(CONTROLLER_USERNAME)
    ack = topic("d2", DeviceChannel.ACK)
    victim = site.connected("d2", clean=False)
    assert victim.subscribe(ack)
    site.departed(victim)
    controller.publish(ack, b"secret, queued")
    thief = site.connected("d1", client_id="d2", clean=False)
    assert thief.subscribe(topic("d1", DeviceChannel.DATA))
    controller.publish(ack, b"secret, live")
    assert hears(site, thief, "d1", 1) == []


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_second_connection_takes_over_the_client_id(site: Site, clean: bool, frozen: bool) -> None:
    """Also when the first one is dead but was never closed, as after a change of network."""
    controller = site.connected(CONTROLLER_USERNAME)
    data, link, report = (
        topic("d1", one) for one in (DeviceChannel.DATA, DeviceChannel.LINK, DeviceChannel.REPORT)
    )
    assert controller.subscribe(report)
    first = site.connected("d1", clean=clean, will=(link, b"offline"))
    assert first.subscribe(data)
    if frozen:
        first.freeze()
    second = site.connected("d1", clean=clean, will=(link, b"offline"))
    assert second.session_present != clean
    assert second.subscribe(data)
    if not frozen:
        first.wait_for(lambda: first.drops == 1)
    for qos in (0, 1):
        controller.publish(data, b"for the second %d" % qos, qos)
        second.expect(data, b"for the second %d" % qos)
    second.publish(report, b"from the second")
    controller.expect(report, b"from the second")
    assert second.drops == 0
