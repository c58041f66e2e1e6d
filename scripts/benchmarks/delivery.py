"""Delivery of a blob over a real Mosquitto, beside what a bare paho publisher and subscriber reach.

Both ends of each are processes of their own. Runs take turns there and back (A B C C B A …), so that drift of
the machine falls on all. Ours verifies every chunk and stores the blob durably; the bare ones count bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import multiprocessing
import os
import queue
import random
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from benchmarks.report import options, publish, spread
from packhorse_agent.contract.chunks import build_index, encode_want
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_agent.contract.topics import (
    DeviceChannel,
    DeviceTopic,
    WantTopic,
    blob_shard,
    parse_topic,
)
from packhorse_agent.link import LinkSettings, LinkUp, Message, MqttLink, Subscription
from packhorse_agent.link.backoff import Backoff
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.transfer import BlobSpec, Downloader
from packhorse_host.broker import BrokerKind, BrokerSettings, CredentialStore, EmbeddedBroker, Role
from packhorse_host.delivery import ChunkServer

FLEET, DEVICE, PASSWORD = "bench", "device-1", "bench-password"
_TIMEOUT_S = 60.0
_IDLE_S, _YIELD_S = 0.02, 0.002
_BARE = {"bare": MQTTProtocolVersion.MQTTv311, "bare_5": MQTTProtocolVersion.MQTTv5}
"""The share is that of the faster one: a message of MQTT 5 costs paho more, and ours speaks MQTT 5."""


def main() -> None:
    """Measure, print, write."""
    parsed = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        credentials = CredentialStore(folder / "broker")
        credentials.add("_bench", PASSWORD, Role.CONTROLLER)
        credentials.add(DEVICE, PASSWORD)
        blob = folder / "blob"
        blob.write_bytes(os.urandom(parsed.mib * 1024 * 1024))
        settings = BrokerSettings(folder / "broker")
        with EmbeddedBroker(settings, credentials, BrokerKind(parsed.broker)) as broker:
            port = broker.start().port
            rates = _measure(parsed.pairs, blob, folder, port)
    ratios = [ours / bare for ours, bare in zip(rates["ours"], rates["bare"], strict=True)]
    lines = [
        ("bare paho, QoS 0, MQTT 3.1.1", f"{spread(rates['bare'])} MB/s"),
        ("bare paho, QoS 0, MQTT 5", f"{spread(rates['bare_5'])} MB/s"),
        ("Packhorse, MQTT 5", f"{spread(rates['ours'])} MB/s"),
        ("share of bare, MQTT 3.1.1", spread(ratios, 2)),
    ]
    publish({"mb_per_s": rates, "ratios": ratios, "median_ratio": median(ratios)}, lines, parsed.json)


def _options() -> argparse.Namespace:
    parser = options("Delivery of one blob over MQTT, beside bare paho in the same run.")
    parser.add_argument("--mib", type=int, default=64, help="size of the blob (default 64)")
    parser.add_argument("--pairs", type=int, default=7, help="rounds of runs (default 7)")
    parser.add_argument("--broker", choices=[kind.value for kind in BrokerKind], default="mosquitto")
    return parser.parse_args()


def _measure(pairs: int, blob: Path, folder: Path, port: int) -> dict[str, list[float]]:
    ends: dict[str, tuple[Callable[..., None], Callable[..., None]]] = {"ours": (_serve, _fetch)}
    for name, protocol in _BARE.items():
        ends[name] = partial(_push, protocol=protocol), partial(_count, protocol=protocol)
    rates: dict[str, list[float]] = {name: [] for name in ends}
    for pair in range(pairs):
        for which in ends if pair % 2 == 0 else reversed(ends):
            rates[which].append(_run(*ends[which], blob, folder / f"{which}-{pair}", port))
    return rates


def _run(
    sender: Callable[..., None], receiver: Callable[..., None], blob: Path, folder: Path, port: int
) -> float:
    """MB/s from the receiver's start to its last byte; both ends say when they are connected."""
    context = multiprocessing.get_context("spawn")
    here_s, there_s = context.Pipe()
    here_r, there_r = context.Pipe()
    children = [
        context.Process(target=sender, args=(blob, port, there_s)),
        context.Process(target=receiver, args=(blob, folder, port, there_r)),
    ]
    for child in children:
        child.start()
    _expect(here_s, "ready")
    _expect(here_r, "ready")
    here_r.send("go")
    here_s.send("go")
    seconds = _expect(here_r, "done")
    here_s.send("end")
    for child in children:
        child.join()
    return blob.stat().st_size / 1e6 / seconds


def _expect(pipe: Connection, word: str) -> float:
    if not pipe.poll(_TIMEOUT_S):
        raise TimeoutError(f"no {word!r} from the other end")
    said, value = pipe.recv()
    if said != word:
        raise RuntimeError(f"{said}: {value}")
    return float(value)


def _push(blob: Path, port: int, pipe: Connection, *, protocol: MQTTProtocolVersion) -> None:
    """A bare publisher: as fast as it goes, at most 64 chunks not yet on the socket."""
    client = _bare_client("_bench", port, protocol)
    data = blob.read_bytes()
    room = threading.Semaphore(64)
    client.on_publish = lambda *_: room.release()
    client.loop_start()
    pipe.send(("ready", 0))
    pipe.recv()
    topic = str(DeviceTopic(FLEET, DEVICE, DeviceChannel.DATA))
    for at in range(0, len(data), CHUNK_SIZE_BYTES):
        room.acquire()
        client.publish(topic, data[at : at + CHUNK_SIZE_BYTES], qos=0)
    pipe.recv()
    client.disconnect()


def _count(blob: Path, _folder: Path, port: int, pipe: Connection, *, protocol: MQTTProtocolVersion) -> None:
    """A bare subscriber: counts bytes."""
    size, got, done = blob.stat().st_size, 0, threading.Event()

    def on_message(_client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        nonlocal got
        got += len(message.payload)
        if got == size:
            done.set()

    client = _bare_client(DEVICE, port, protocol)
    subscribed = threading.Event()
    client.on_message = on_message
    client.on_subscribe = lambda *_: subscribed.set()
    client.subscribe(str(DeviceTopic(FLEET, DEVICE, DeviceChannel.DATA)), 0)
    client.loop_start()
    subscribed.wait(_TIMEOUT_S)
    pipe.send(("ready", 0))
    pipe.recv()
    began_s = time.perf_counter()
    if not done.wait(_TIMEOUT_S):
        pipe.send(("lost", f"{size - got} bytes of {size}"))
    pipe.send(("done", time.perf_counter() - began_s))
    client.disconnect()


def _bare_client(username: str, port: int, protocol: MQTTProtocolVersion) -> paho.Client:
    name = f"bare-{username.strip('_')}"
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol)
    client.username_pw_set(username, PASSWORD)
    client.connect("127.0.0.1", port)
    return client


class _OneBlob:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.index, self.spec = blob_spec(path)

    def open_blob(self, sha256: str) -> BinaryIO | None:
        """The blob, or one of its index levels."""
        if sha256 in self.index:
            return io.BytesIO(self.index[sha256])
        return self._path.open("rb") if sha256 == self.spec.sha256 else None


def blob_spec(path: Path) -> tuple[dict[str, bytes], BlobSpec]:
    """Index levels by digest, and how a manifest would name the blob."""
    data = path.read_bytes()
    starts = range(0, len(data), CHUNK_SIZE_BYTES)
    digests = [hashlib.sha256(data[at : at + CHUNK_SIZE_BYTES]).digest() for at in starts]
    levels = {hashlib.sha256(level).hexdigest(): level for level in build_index(digests)}
    return levels, BlobSpec(hashlib.sha256(data).hexdigest(), len(data), tuple(levels))


def _serve(blob: Path, port: int, pipe: Connection) -> None:
    """Our host's side: the real chunk server on the real link, in turns like the controller's."""
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    link = _link("_bench", port, Subscription(WantTopic.filter(FLEET), 1), events)
    source = _OneBlob(blob)
    server = ChunkServer(
        source,
        lambda topic, payload: _ignore(link.publish(topic, payload, qos=0)),
        FLEET,
        time.monotonic,
        ready=lambda: link.ready,
    )
    _until_up(events)
    pipe.send(("ready", 0))
    pipe.recv()
    while not pipe.poll():
        with contextlib.suppress(queue.Empty):
            message = events.get(timeout=_IDLE_S if server.next_due() is None else _YIELD_S)
            topic = parse_topic(message.topic) if isinstance(message, Message) else None
            if isinstance(topic, WantTopic):
                server.on_want(topic, message.payload)
        server.tick()
    link.stop()


def _fetch(blob: Path, folder: Path, port: int, pipe: Connection) -> None:
    """Our device's side: the real downloader, store and link, in turns like the supervisor's."""
    _, spec = blob_spec(blob)
    folder.mkdir()
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    topic = str(DeviceTopic(FLEET, DEVICE, DeviceChannel.DATA))
    link = _link(DEVICE, port, Subscription(topic, 0), events)

    def ask(want: Any) -> None:
        link.publish(str(WantTopic(FLEET, blob_shard(want.blob_sha256), DEVICE)), encode_want(want), qos=1)

    downloader = Downloader(BlobStore(folder), ask, time.monotonic, random.Random())
    _until_up(events)
    pipe.send(("ready", 0))
    pipe.recv()
    began_s = time.perf_counter()
    downloader.want(spec)
    outcome = None
    while outcome is None:
        with_timeout_s = max((downloader.next_due() or 0.0) - time.monotonic(), 0.0)
        try:
            while True:
                event = events.get(timeout=min(with_timeout_s, 0.1))
                if isinstance(event, Message) and isinstance(parse_topic(event.topic), DeviceTopic):
                    downloader.on_frame(event.payload)
                with_timeout_s = 0.0
        except queue.Empty:
            pass
        downloader.tick()
        outcome = next(iter(downloader.poll()), None)
    pipe.send(("done", time.perf_counter() - began_s))
    link.stop()


def _link(username: str, port: int, subscription: Subscription, events: queue.SimpleQueue[Any]) -> MqttLink:
    settings = LinkSettings(
        "127.0.0.1", port, f"ours-{username.strip('_')}", username, PASSWORD, (subscription,)
    )
    link = MqttLink(settings, events.put, Backoff())
    link.start()
    return link


def _until_up(events: queue.SimpleQueue[Any]) -> None:
    while not isinstance(events.get(timeout=_TIMEOUT_S), LinkUp):
        pass


def _ignore(_sent: bool) -> None:
    pass


if __name__ == "__main__":
    main()
