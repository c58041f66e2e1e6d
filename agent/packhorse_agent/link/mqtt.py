"""A connection to an MQTT broker that keeps coming back.

Speaks MQTT 5 and falls back to 3.1.1. Sessions are clean: all that matters is retained or asked for again,
so a broker may lose everything. Each connection is a new paho client, driven by one thread here, since
paho's own reconnection has no jitter and keeps the protocol version.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from packhorse_agent.link.backoff import Backoff
from packhorse_agent.link.settings import LinkDown, LinkEvent, LinkSettings, LinkUp, Message

_NAMES: dict[MQTTProtocolVersion, Literal["5", "3.1.1"]] = {
    MQTTProtocolVersion.MQTTv5: "5",
    MQTTProtocolVersion.MQTTv311: "3.1.1",
}
_MAX_QUEUED = 1000


class MqttLink:
    """Keeps one connection and posts `LinkEvent`s; `post` must not block (it runs on the link's thread)."""

    def __init__(self, settings: LinkSettings, post: Callable[[LinkEvent], None], backoff: Backoff) -> None:
        self._settings = settings
        self._post = post
        self._backoff = backoff
        self._client: paho.Client | None = None
        self._connected = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)
        self._protocol = MQTTProtocolVersion.MQTTv5
        self._proven = False
        self._down_reason = ""

    @property
    def connected(self) -> bool:
        """Whether a message could be sent now."""
        return self._connected.is_set()

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Say that we leave (the will's text), disconnect and end the thread; returns within seconds."""
        will = self._settings.will
        if will and self.connected:
            self._farewell(will.topic, will.payload)
        self._stopping.set()
        if self._client is not None:
            self._client.disconnect()
        if self._thread.is_alive():
            self._thread.join(timeout=self._settings.connect_timeout_s)

    def publish(self, topic: str, payload: bytes, *, qos: Literal[0, 1], retain: bool = False) -> bool:
        """Hand a message to the connection; False when there is none. True is no proof of delivery."""
        client = self._client
        if client is None or not self.connected:
            return False
        return client.publish(topic, payload, qos, retain).rc == paho.MQTT_ERR_SUCCESS

    def subscribe(self, topic: str, *, qos: Literal[0, 1]) -> None:
        """Listen to one more topic until the connection ends."""
        if self._client is not None and self.connected:
            self._client.subscribe(topic, qos)

    def unsubscribe(self, topic: str) -> None:
        """Stop listening to a topic."""
        if self._client is not None and self.connected:
            self._client.unsubscribe(topic)

    def _farewell(self, topic: str, payload: bytes) -> None:
        if self._client is None:
            return
        sent = self._client.publish(topic, payload, 1, retain=True)
        try:
            sent.wait_for_publish(timeout=2.0)
        except (ValueError, RuntimeError):
            return

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._connect_once()
            self._connected.clear()
            if self._stopping.is_set():
                return
            delay_s = self._backoff.next_delay_s()
            self._post(LinkDown(self._down_reason, delay_s))
            self._stopping.wait(delay_s)

    def _connect_once(self) -> None:
        settings = self._settings
        self._down_reason = f"no answer from the broker at {settings.host}:{settings.port}"
        answered = False
        try:
            self._client = self._make_client()
            self._client.connect(settings.host, settings.port, settings.keepalive_s)
            self._client.loop_forever()
            answered = self._connected.is_set()
        except (OSError, ValueError) as error:
            self._down_reason = f"broker at {settings.host}:{settings.port}: {error}"
            return
        finally:
            if self._client is not None:
                _close(self._client)
        if not answered and not self._proven:
            self._protocol = _other(self._protocol)

    def _make_client(self) -> paho.Client:
        settings = self._settings
        plain = self._protocol is MQTTProtocolVersion.MQTTv311
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=self._protocol,
            clean_session=True if plain else None,
            reconnect_on_failure=False,
        )
        client.connect_timeout = settings.connect_timeout_s
        client.max_queued_messages_set(_MAX_QUEUED)
        client.username_pw_set(settings.username, settings.password)
        if settings.tls:
            client.tls_set_context(_tls_context(settings))
        if settings.will:
            client.will_set(settings.will.topic, settings.will.payload, qos=1, retain=True)
        client.on_socket_open = _no_delay
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Properties | None
    ) -> None:
        if code.is_failure:
            self._down_reason = f"broker refused: {code}"
            return
        self._proven = True
        if self._stopping.is_set():
            client.disconnect()
            return
        wanted: list[tuple[str, int]] = [(one.topic, one.qos) for one in self._settings.subscriptions]
        client.subscribe(wanted)

    def _on_subscribe(
        self, _client: paho.Client, _data: Any, _mid: int, codes: list[ReasonCode], _properties: Any
    ) -> None:
        if self._connected.is_set():
            return
        self._connected.set()
        self._backoff.reset()
        birth = self._settings.birth
        if birth:
            self.publish(birth.topic, birth.payload, qos=1, retain=True)
        self._post(LinkUp(_NAMES[self._protocol]))

    def _on_disconnect(
        self, _client: paho.Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Any
    ) -> None:
        if self._connected.is_set():
            self._down_reason = f"connection lost: {code}"

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._post(Message(message.topic, bytes(message.payload)))


def _other(protocol: MQTTProtocolVersion) -> MQTTProtocolVersion:
    if protocol is MQTTProtocolVersion.MQTTv5:
        return MQTTProtocolVersion.MQTTv311
    return MQTTProtocolVersion.MQTTv5


def _no_delay(_client: paho.Client, _data: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _close(client: paho.Client) -> None:
    sock = client.socket()
    if isinstance(sock, socket.socket):
        sock.close()


def _tls_context(settings: LinkSettings) -> ssl.SSLContext:
    tls = settings.tls
    if tls is None:
        raise ValueError("no TLS settings")
    context = ssl.create_default_context(cafile=str(tls.ca_file) if tls.ca_file else None)
    if tls.certificate_file:
        context.load_cert_chain(str(tls.certificate_file), str(tls.key_file) if tls.key_file else None)
    return context
