"""paho's client, with the way of a chunk made short in both directions.

For every message that comes by MQTT 5 paho builds its tables of properties anew and copies the payload four
times; for every one that is written it builds a reason code and properties for `on_publish`. At 64 KiB a
message that costs a device more than all the rest of its network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion


class LinkClient(paho.Client):
    """One connection. Messages come to `deliver(topic, payload)` on the thread that runs `loop`."""

    def __init__(
        self, client_id: str, protocol: MQTTProtocolVersion, deliver: Callable[[str, bytes], None]
    ) -> None:
        """`deliver` must not raise."""
        plain = protocol is MQTTProtocolVersion.MQTTv311
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=protocol,
            clean_session=True if plain else None,
            reconnect_on_failure=False,
        )
        self._deliver = deliver
        self._has_properties = not plain
        self._unwritten: deque[paho.MQTTMessageInfo] = deque()
        self.on_message = self._pass_on

    def send(self, topic: str, payload: bytes, qos: Literal[0, 1], retain: bool) -> bool:
        """Hand a message over; False when it is not taken."""
        info = self.publish(topic, payload, qos, retain)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            return False
        if qos == 0:
            self._unwritten.append(info)
        return True

    def backlog(self) -> int:
        """Messages at QoS 0 that are not on the socket yet; for the thread that sends."""
        while self._unwritten and self._unwritten[0].is_published():
            self._unwritten.popleft()
        return len(self._unwritten)

    def _pass_on(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self._deliver(topic, bytes(message.payload))

    def _handle_publish(self) -> MQTTErrorCode:
        """Paho's step for a PUBLISH that was read, without properties; anything else goes paho's way."""
        match getattr(self, "_in_packet", None):
            # The first byte at QoS 0, not retained or retained: MQTT 5.0, 3.3.1.
            case {"command": 0x30 | 0x31, "packet": bytearray() as packet} if self._has_properties:
                if plain := read_plain_publish(packet):
                    self._deliver(*plain)
                    return MQTTErrorCode.MQTT_ERR_SUCCESS
        return super()._handle_publish()


def read_plain_publish(packet: bytes | bytearray) -> tuple[str, bytes] | None:
    """Topic and payload of an MQTT 5 PUBLISH at QoS 0 after its fixed header; None unless it is a plain one.

    Plain is a topic, no property and a payload (MQTT 5.0, 3.3.2).
    """
    end = 2 + int.from_bytes(packet[:2], "big")
    if end == 2 or packet[end : end + 1] != b"\0":
        return None
    try:
        topic = packet[2:end].decode()
    except UnicodeDecodeError:
        return None
    return topic, bytes(memoryview(packet)[end + 1 :])
