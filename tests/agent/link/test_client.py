"""What a device gets most goes a short way past paho's; what comes out must be the same as by paho's own."""

from __future__ import annotations

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from packhorse_agent.link import LinkUp, Message
from packhorse_agent.link.client import LinkClient, read_plain_publish
from packhorse_host.broker import CONTROLLER_USERNAME, BrokerKind
from tests.agent.link.conftest import DATA_TOPIC, Links, device

only_mosquitto = pytest.mark.parametrize("kind", [BrokerKind.MOSQUITTO], ids=["mosquitto"], indirect=True)

TOPICS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def packet(topic: bytes, rest: bytes) -> bytearray:
    """A PUBLISH at QoS 0 after its fixed header."""
    return bytearray(len(topic).to_bytes(2, "big") + topic + rest)


@given(TOPICS, st.binary(max_size=300))
def test_a_plain_message_is_read_as_it_was_written(topic: str, payload: bytes) -> None:
    assert read_plain_publish(packet(topic.encode(), b"\0" + payload)) == (topic, payload)


@given(st.binary(max_size=40))
def test_nothing_that_a_broker_sends_raises(body: bytes) -> None:
    read_plain_publish(bytearray(body))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0", id="cut in the length of the topic"),
        pytest.param(packet(b"a/b", b""), id="no length of properties"),
        pytest.param(packet(b"a/b", b"")[:-1], id="cut in the topic"),
        pytest.param(packet(b"a/b", b"\x02\x01\x00payload"), id="with a property"),
        pytest.param(packet(b"", b"\0payload"), id="no topic, so an alias or an error"),
        pytest.param(packet(b"a/\xff", b"\0payload"), id="a topic that is no UTF-8"),
    ],
)
def test_anything_else_is_left_to_paho(body: bytes) -> None:
    assert read_plain_publish(body) is None


def test_paho_still_has_the_step_that_is_made_short() -> None:
    """A paho without it would deliver all the same, but slowly."""
    assert "_handle_publish" in vars(paho.Client)
    client = LinkClient("x", MQTTProtocolVersion.MQTTv5, lambda topic, payload: None)
    assert {"command", "packet"} <= set(vars(client)["_in_packet"])


@only_mosquitto
def test_messages_with_and_without_properties_arrive_alike(port: int, links: Links) -> None:
    receiver = links.open(device(port))
    receiver.ear.expect(LinkUp)
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.UserProperty = ("who", "somebody else's controller")
    sender = paho.Client(CallbackAPIVersion.VERSION2, client_id="other", protocol=MQTTProtocolVersion.MQTTv5)
    sender.username_pw_set(CONTROLLER_USERNAME, "controller's")
    sender.connect("127.0.0.1", port)
    sender.loop_start()
    for payload, extra in ((b"one", properties), (b"two", None), (b"", properties), (b"", None)):
        sender.publish(DATA_TOPIC, payload, qos=0, properties=extra).wait_for_publish(5)
    receiver.ear.expect(Message, 4)
    sender.disconnect()
    sender.loop_stop()
    assert receiver.ear.payloads(DATA_TOPIC) == [b"one", b"two", b"", b""]
