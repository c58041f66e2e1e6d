"""A connection to an MQTT broker that keeps coming back.

Speaks MQTT 5 and falls back to 3.1.1. Sessions are clean: all that matters is retained or asked for again,
so a broker may lose everything. Each connection is a new paho client, driven by one thread here, since
paho's own reconnection has no jitter and keeps the protocol version.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from packhorse_agent.link.backoff import Backoff
from packhorse_agent.link.client import LinkClient
from packhorse_agent.link.settings import (
    LinkDown,
    LinkEvent,
    LinkSettings,
    LinkUp,
    Message,
    Retained,
    TlsSettings,
)

_NAMES: dict[MQTTProtocolVersion, Literal["5", "3.1.1"]] = {
    MQTTProtocolVersion.MQTTv5: "5",
    MQTTProtocolVersion.MQTTv311: "3.1.1",
}
_TURN_S = 1.0
_FAREWELL_S = 2.0
_MAX_QUEUED = 1000
"""Messages at QoS 1 that wait for the broker's acknowledgement."""

_MAX_BACKLOG = 64
"""Messages at QoS 0 that are not written yet; 4 MiB of chunks."""

_log = logging.getLogger(__name__)


class MqttLink:
    """Keeps one connection and posts `LinkEvent`s; `post` must not block (it runs on the link's thread).

    `start`, `stop` and `publish` belong to one other thread.
    """

    def __init__(self, settings: LinkSettings, post: Callable[[LinkEvent], None], backoff: Backoff) -> None:
        self._settings = settings
        self._post = post
        self._backoff = backoff
        self._where = f"broker at {settings.host}:{settings.port}"
        self._client: LinkClient | None = None
        self._connected = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)
        self._protocol = MQTTProtocolVersion.MQTTv5
        self._answered = self._proven = self._wrong_version = False
        self._down_reason = ""
        self._subscribe_mid: int | None = None

    @property
    def connected(self) -> bool:
        """Whether a message could be sent now."""
        return self._connected.is_set()

    @property
    def ready(self) -> bool:
        """Whether it takes more without piling it up in memory: connected, and most of it is written."""
        client = self._client
        return client is not None and self.connected and client.backlog() < _MAX_BACKLOG

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Say that we leave (the will's text), disconnect and end the thread; returns within seconds."""
        client, will = self._client, self._settings.will
        if client is not None and will and self.connected:
            _farewell(client, will)
        self._stopping.set()
        if client is not None:
            client.disconnect()
        if self._thread.is_alive():
            self._thread.join(timeout=self._settings.connect_timeout_s + _TURN_S)

    def publish(self, topic: str, payload: bytes, *, qos: Literal[0, 1], retain: bool = False) -> bool:
        """Hand a message to the connection; False when there is none. True is no proof of delivery."""
        client = self._client
        if client is None or not self.connected:
            return False
        return client.send(topic, payload, qos, retain)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._connect_once()
            if self._stopping.is_set():
                return
            delay_s = self._backoff.next_delay_s()
            self._tell(LinkDown(self._down_reason, delay_s))
            self._stopping.wait(delay_s)

    def _connect_once(self) -> None:
        self._answered = self._wrong_version = False
        self._down_reason = f"{self._where} closed the connection without an answer{self._hint()}"
        try:
            self._client = client = self._make_client()
            client.connect(self._settings.host, self._settings.port, self._settings.keepalive_s)
            self._drive(client)
        except OSError as error:
            self._down_reason = f"{self._where}: {error}"
            self._answered = True
        except Exception as error:
            # What a broker sends, or a defect: the link lives on.
            _log.exception("the connection broke")
            self._down_reason = f"{self._where}: {error!r}"
        finally:
            self._connected.clear()
            self._drop_client()
        if self._wrong_version or not (self._answered or self._proven):
            self._protocol = _other(self._protocol)
            self._proven = False

    def _drive(self, client: paho.Client) -> None:
        """Move bytes until the connection ends."""
        deadline_s = time.monotonic() + self._settings.connect_timeout_s
        while client.loop(_TURN_S) == paho.MQTT_ERR_SUCCESS:
            if self._connected.is_set():
                continue
            if self._stopping.is_set():
                return
            if time.monotonic() > deadline_s:
                what = "did not grant the subscriptions" if self._answered else "does not answer"
                self._down_reason = f"{self._where} {what} within {self._settings.connect_timeout_s:.0f} s"
                return

    def _make_client(self) -> LinkClient:
        settings = self._settings
        # NATS refuses a dot in a client id; '~' stands in no name, so ids stay distinct.
        client = LinkClient(settings.client_id.replace(".", "~"), self._protocol, self._deliver)
        client.connect_timeout = settings.connect_timeout_s
        client.max_queued_messages_set(_MAX_QUEUED)
        client.username_pw_set(settings.username, settings.password)
        if settings.tls:
            client.tls_set_context(_tls_context(settings.tls))
        if settings.will:
            client.will_set(settings.will.topic, settings.will.payload, qos=1, retain=True)
        # Without it paho writes from the thread that publishes, and two writers mix their packets.
        client.on_socket_register_write = _ignore
        client.on_socket_open = _no_delay
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        return client

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        sock = client.socket() if client is not None else None
        if isinstance(sock, socket.socket):
            sock.close()

    def _hint(self) -> str:
        tls = self._settings.tls
        return " (it may want a client certificate)" if tls and tls.certificate_file is None else ""

    def _tell(self, event: LinkEvent) -> None:
        try:
            self._post(event)
        except Exception:
            _log.exception("an event of the link was lost: %r", type(event).__name__)

    # paho's callbacks, on the link's thread ---------------------------------------------------------------

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Properties | None
    ) -> None:
        self._answered = True
        if code.is_failure:
            self._wrong_version = code == "Unsupported protocol version"
            self._down_reason = f"{self._where} refused: {code}"
            return
        self._proven = True
        if self._stopping.is_set():
            client.disconnect()
            return
        if not self._settings.subscriptions:
            self._come_up()
            return
        wanted: list[tuple[str, int]] = [(one.topic, one.qos) for one in self._settings.subscriptions]
        _, self._subscribe_mid = client.subscribe(wanted)

    def _on_subscribe(
        self, client: paho.Client, _data: Any, mid: int, codes: list[ReasonCode], _properties: Any
    ) -> None:
        if mid != self._subscribe_mid:
            return
        topics = [one.topic for one in self._settings.subscriptions]
        refused = [topic for topic, code in zip(topics, codes, strict=False) if code.is_failure]
        if refused:
            self._down_reason = f"{self._where} refused to let us listen to {', '.join(refused)}"
            client.disconnect()
            return
        self._come_up()

    def _come_up(self) -> None:
        self._connected.set()
        self._backoff.reset()
        birth = self._settings.birth
        if birth:
            self.publish(birth.topic, birth.payload, qos=1, retain=True)
        self._tell(LinkUp(_NAMES[self._protocol]))

    def _on_disconnect(
        self, _client: paho.Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Any
    ) -> None:
        if self._connected.is_set():
            self._down_reason = f"connection to the {self._where} lost: {code}"

    def _deliver(self, topic: str, payload: bytes) -> None:
        self._tell(Message(topic, payload))


def _farewell(client: paho.Client, will: Retained) -> None:
    sent = client.publish(will.topic, will.payload, 1, retain=True)
    try:
        sent.wait_for_publish(timeout=_FAREWELL_S)
    except (ValueError, RuntimeError):
        return


def _other(protocol: MQTTProtocolVersion) -> MQTTProtocolVersion:
    if protocol is MQTTProtocolVersion.MQTTv5:
        return MQTTProtocolVersion.MQTTv311
    return MQTTProtocolVersion.MQTTv5


def _ignore(*_: Any) -> None:
    return


def _no_delay(_client: paho.Client, _data: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _tls_context(tls: TlsSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(tls.ca_file) if tls.ca_file else None)
    if tls.certificate_file:
        context.load_cert_chain(str(tls.certificate_file), str(tls.key_file) if tls.key_file else None)
    return context
