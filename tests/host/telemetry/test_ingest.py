"""Reports are stored exactly once when they are the device's own, and otherwise never."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from packhorse_agent.contract.envelope import MAGIC, SIGNATURE_BYTES, SIGNING_CONTEXT, seal
from packhorse_agent.contract.messages import Inventory, Report, ReportAck
from packhorse_agent.trust.keys import DeviceKey, make_signing_request
from packhorse_host.errors import EnvironmentFaultError
from packhorse_host.fleet.database import Database
from packhorse_host.fleet.devices import add_device, load_device, load_history, remove_device
from packhorse_host.fleet.unread import KEPT_PER_DEVICE, load_unread
from packhorse_host.telemetry.ingest import UNKNOWN_DEVICE, Ingest
from tests.fakes.fleet import state, window
from tests.host.telemetry.conftest import FLEET, Sender, Site, topic


def inventory(simulated: bool = True, agent_version: str = "0.1.0") -> Inventory:
    return Inventory(
        at_unix_ms=1,
        agent_version=agent_version,
        profile="raspberry-pi-5",
        detected_profile=None,
        simulated=simulated,
        architecture="aarch64",
        operating_system="linux",
        python_version="3.11.2",
        cpu_model="Cortex-A76",
        cpu_count=4,
        memory_bytes=8 * 2**30,
        storage_free_bytes=2**30,
        runtimes={"onnxruntime": "1.20.0"},
        power_sources=(),
        power_reason="no source",
        slots=(),
    )


def test_what_a_device_reports_is_stored_and_acknowledged(site: Site, device: Sender) -> None:
    ack = site.take(device, device.seal(1, state(1), inventory(), stream="state"))
    assert ack == ReportAck(stream="state", boot=1, sequence=1)
    assert site.take(device, device.seal(1, window(1), window(2))) == ReportAck(
        stream="telemetry", boot=1, sequence=1
    )
    with site.database.transaction() as connection:
        record = load_device(connection, "camera.7")
        assert record.inventory == inventory()
        assert record.simulated
        assert record.seen_unix_s == 77.0
        assert load_history(connection, "camera.7") == [state(1)]
    assert site.starts() == [1, 2]
    assert site.drops() == {}


def test_a_report_whose_acknowledgement_was_lost_is_acknowledged_again_and_stored_once(
    site: Site, device: Sender
) -> None:
    envelope = device.seal(1)
    assert site.take(device, envelope) == site.take(device, envelope)
    assert site.starts() == [1]
    assert site.drops() == {("camera.7", "repeated"): 1}


def test_an_old_report_is_answered_with_how_far_reports_are_stored(site: Site, device: Sender) -> None:
    old = device.seal(1)
    for envelope in (old, device.seal(2), device.seal(1, window(9), boot=2)):
        site.take(device, envelope)
    assert site.take(device, old) == ReportAck(stream="telemetry", boot=2, sequence=1)
    assert site.starts() == [1, 2, 9]
    assert site.drops() == {("camera.7", "replayed"): 1}


def test_boots_are_ordered_before_sequences_and_streams_by_themselves(site: Site, device: Sender) -> None:
    for number, (boot, sequence) in enumerate([(1, 5), (2, 1), (2, 7), (10, 1)]):
        assert site.take(device, device.seal(sequence, window(number), boot=boot)) is not None
    assert site.starts() == [0, 1, 2, 3]
    site.take(device, device.seal(1, state(1), stream="state"))
    assert site.deployments() == 1


def stolen(device: Sender) -> bytes:
    return Sender(device.device_id, DeviceKey(Ed25519PrivateKey.generate())).seal(1)


def flipped(envelope: bytes, at: int) -> bytes:
    return envelope[:at] + bytes([envelope[at] ^ 1]) + envelope[at + 1 :]


def test_what_the_devices_key_did_not_sign_is_dropped_and_counted(site: Site, device: Sender) -> None:
    genuine = device.seal(1)
    forged = [
        stolen(device),
        flipped(genuine, len(MAGIC)),
        flipped(genuine, len(genuine) - 10),
        device.seal(1, fleet="another"),
        device.seal(1, device_id="another"),
    ]
    for envelope in forged:
        assert site.take(device, envelope) is None
    assert site.starts() == []
    assert site.drops() == {("camera.7", "forged"): len(forged)}
    assert site.take(device, genuine) is not None, "and they do not stand in the way of a genuine one"


def test_a_report_of_one_device_under_the_topic_of_another_is_forged(site: Site, device: Sender) -> None:
    other = site.enrol("other")
    assert site.ingest.take(topic("other"), device.seal(1)) is None
    assert site.ingest.take(topic("camera.7"), other.seal(1, device_id="camera.7")) is None
    assert site.drops() == {("other", "forged"): 1, ("camera.7", "forged"): 1}
    assert site.starts() == []


def test_a_report_of_another_fleet_is_forged(site: Site, device: Sender) -> None:
    assert site.ingest.take(topic("camera.7", fleet="another"), device.seal(1)) is None
    assert site.drops() == {("camera.7", "forged"): 1}


def signed(device: Sender, content: bytes) -> bytes:
    return MAGIC + device.key.sign(SIGNING_CONTEXT + content) + content


def test_what_is_no_envelope_is_dropped_and_counted(site: Site, device: Sender) -> None:
    malformed = [b"", b"\x00", MAGIC, MAGIC + bytes(SIGNATURE_BYTES), bytes(70_000), device.seal(1)[1:]]
    for envelope in malformed:
        assert site.take(device, envelope) is None
    assert site.drops() == {("camera.7", "malformed"): len(malformed)}
    assert site.starts() == []


def newer(sequence: int = 1, **changes: object) -> bytes:
    """What an agent of years to come may sign: the header is as it is now, the rest is not."""
    header = {"fleet": FLEET, "device_id": "camera.7", "stream": "telemetry", "boot": 1, "sequence": sequence}
    return json.dumps({**header, "format": 2, "pages": [1, 2], **changes}).encode()


def unread(site: Site) -> list[bytes]:
    with site.database.transaction() as connection:
        return load_unread(connection, "camera.7")


def test_a_genuine_report_that_cannot_be_read_is_set_aside_and_the_stream_goes_on(
    site: Site, device: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    for sequence in (1, 2):
        ack = site.take(device, signed(device, newer(sequence)))
        assert ack == ReportAck(stream="telemetry", boot=1, sequence=sequence)
    assert site.take(device, device.seal(3)) == ReportAck(stream="telemetry", boot=1, sequence=3)
    assert site.starts() == [3]
    assert unread(site) == [newer(1), newer(2)]
    assert site.drops() == {("camera.7", "unreadable"): 2}
    assert len(caplog.messages) == 1, "it is said once for each device"
    assert "camera.7 sends reports that this Packhorse cannot read" in caplog.text


def test_one_item_of_an_unknown_kind_or_with_a_broken_sketch_does_not_block(
    site: Site, device: Sender
) -> None:
    broken_sketch = window(1).model_copy(update={"latency_us": "AAAA"})
    report = Report(
        fleet=FLEET, device_id="camera.7", stream="telemetry", boot=1, sequence=1, items=(broken_sketch,)
    )
    assert site.take(device, seal(report, device.key.sign)) is not None
    unknown = newer(2, format=1, items=[{"kind": "hologram"}])
    assert site.take(device, signed(device, unknown)) is not None
    assert len(unread(site)) == 2
    assert site.starts() == []


def test_an_unreadable_report_counts_once_and_cannot_be_replayed(site: Site, device: Sender) -> None:
    envelopes = [signed(device, newer(sequence)) for sequence in (1, 2)]
    for envelope in envelopes:
        site.take(device, envelope)
    assert site.take(device, envelopes[0]) == ReportAck(stream="telemetry", boot=1, sequence=2)
    assert site.take(device, envelopes[1]) == ReportAck(stream="telemetry", boot=1, sequence=2)
    assert site.drops() == {
        ("camera.7", "unreadable"): 2,
        ("camera.7", "replayed"): 1,
        ("camera.7", "repeated"): 1,
    }
    assert len(unread(site)) == 2


def test_what_is_set_aside_is_bounded(site: Site, device: Sender) -> None:
    for sequence in range(1, KEPT_PER_DEVICE + 4):
        assert site.take(device, signed(device, newer(sequence))) is not None
    assert unread(site) == [newer(sequence) for sequence in range(4, KEPT_PER_DEVICE + 4)]


@pytest.mark.parametrize("change", [{"fleet": "another"}, {"device_id": "another"}])
def test_an_unreadable_report_for_somebody_else_is_forged(
    site: Site, device: Sender, change: dict[str, Any]
) -> None:
    assert site.take(device, signed(device, newer(**change))) is None
    assert site.drops() == {("camera.7", "forged"): 1}


def test_an_unreadable_report_that_somebody_else_signed_is_forged(site: Site, device: Sender) -> None:
    thief = Sender("camera.7", DeviceKey(Ed25519PrivateKey.generate()))
    assert site.take(device, signed(thief, newer())) is None
    assert site.drops() == {("camera.7", "forged"): 1}
    assert unread(site) == []


@pytest.mark.parametrize(
    "content", [b"{}", b"\xff\xfe", b"[" * 10_000, newer(0), newer(boot=-1), newer(stream="gossip")]
)
def test_without_a_number_nothing_can_be_acknowledged(site: Site, device: Sender, content: bytes) -> None:
    assert site.take(device, signed(device, content)) is None
    assert site.drops() == {("camera.7", "unreadable"): 1}
    assert unread(site) == []


def enrol_anew(site: Site, device: Sender, key: DeviceKey) -> Sender:
    request = make_signing_request(key, device.device_id, "raspberry-pi-5")
    with site.database.transaction() as connection:
        add_device(connection, request, None, 2.0, replace_key=True)
    return Sender(device.device_id, key)


def test_a_new_key_begins_to_count_anew_and_the_old_keys_reports_are_refused(
    site: Site, device: Sender
) -> None:
    old = [device.seal(sequence, window(sequence), boot=boot) for boot, sequence in ((7, 8), (7, 9))]
    site.take(device, old[0])
    again = enrol_anew(site, device, DeviceKey(Ed25519PrivateKey.generate()))
    assert [site.take(again, envelope) for envelope in old] == [None, None]
    first = again.seal(1, window(20))
    assert site.take(again, first) == ReportAck(stream="telemetry", boot=1, sequence=1)
    assert site.take(again, again.seal(2, window(21))) is not None
    assert site.take(again, first) == ReportAck(stream="telemetry", boot=1, sequence=2)
    assert site.starts() == [8, 20, 21]
    assert site.drops() == {("camera.7", "forged"): 2, ("camera.7", "replayed"): 1}


def test_reports_of_a_removed_device_are_dropped_and_counted_until_it_is_back(
    site: Site, device: Sender
) -> None:
    site.take(device, device.seal(1))
    with site.database.transaction() as connection:
        remove_device(connection, "camera.7", 3.0)
    assert site.take(device, device.seal(2)) is None
    assert site.drops() == {("camera.7", "removed"): 1}
    site.enrol("camera.7")
    assert site.take(device, device.seal(1)) == ReportAck(stream="telemetry", boot=1, sequence=1)
    assert site.take(device, device.seal(2)) == ReportAck(stream="telemetry", boot=1, sequence=2)
    assert site.starts() == [1, 2]


@given(st.binary(max_size=300))
@settings(max_examples=50)
def test_any_bytes_are_survived(envelope: bytes) -> None:
    with sites() as site:
        assert site.take(site.enrol("camera.7"), envelope) is None


def test_devices_that_nobody_enrolled_are_counted_together(site: Site, device: Sender) -> None:
    for name in ("stranger", "another", "third"):
        assert site.ingest.take(topic(name), Sender(name, device.key).seal(1, device_id=name)) is None
    assert site.drops() == {(UNKNOWN_DEVICE, "unknown"): 3}


def test_a_crash_after_storing_and_before_the_acknowledgement_stores_nothing_twice(
    site: Site, device: Sender
) -> None:
    envelope = device.seal(1)
    site.take(device, envelope)
    again = Ingest(site.database, lambda: 78.0)
    assert again.take(topic("camera.7"), envelope) == ReportAck(stream="telemetry", boot=1, sequence=1)
    assert site.starts() == [1]


def test_a_crash_while_storing_stores_nothing_and_the_report_comes_again(
    site: Site, device: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    envelope = device.seal(1, window(1), window(2))
    with monkeypatch.context() as patched:
        calls = itertools.count()

        def dies_at_the_second(*_: object) -> None:
            if next(calls) == 1:
                raise KeyboardInterrupt

        patched.setattr("packhorse_host.telemetry.ingest._store_window", dies_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            site.take(device, envelope)
    assert site.starts() == []
    assert site.take(device, envelope) is not None
    assert site.starts() == [1, 2]


def test_a_full_disk_is_no_acknowledgement(
    site: Site, device: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    envelope = device.seal(1)
    with monkeypatch.context() as patched:

        @contextmanager
        def full(_: Database) -> Iterator[Connection]:
            raise EnvironmentFaultError("the database refuses: database or disk is full")
            yield

        patched.setattr(Database, "transaction", full)
        with pytest.raises(EnvironmentFaultError):
            site.take(device, envelope)
    assert site.take(device, envelope) is not None


@contextmanager
def sites() -> Iterator[Site]:
    """A fresh one for each example."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database("sqlite://")
        yield Site(database, Ingest(database, lambda: 77.0), Path(folder))
        database.close()


network = st.lists(st.sampled_from(["deliver", "lose", "twice", "late"]), min_size=1, max_size=30)


@given(st.integers(1, 4), st.integers(1, 3), network, network)
@settings(max_examples=60)
def test_whatever_the_network_does_each_window_is_stored_exactly_once(
    reports: int, boots: int, ways: list[str], ways_back: list[str]
) -> None:
    """Stop and wait against loss, duplication and late delivery, both ways, with restarts of the device."""
    with sites() as site:
        device = site.enrol("camera.7")
        late: list[bytes] = []
        there, back = itertools.cycle([*ways, "deliver"]), itertools.cycle([*ways_back, "deliver"])
        numbers = itertools.count()
        for boot, sequence in itertools.product(range(1, boots + 1), range(1, reports + 1)):
            envelope = device.seal(sequence, window(next(numbers)), boot=boot)
            heard = False
            while not heard:
                acks = []
                match next(there):
                    case "deliver":
                        acks = [site.take(device, envelope)]
                    case "twice":
                        acks = [site.take(device, envelope) for _ in range(2)]
                    case "late":
                        late.append(envelope)
                if late and next(there) == "deliver":
                    acks.append(site.take(device, late.pop(0)))
                key = (boot, sequence)
                heard = any(ack and (ack.boot, ack.sequence) >= key for ack in acks) and next(back) != "lose"
        for envelope in late:
            site.take(device, envelope)
        assert site.starts() == list(range(reports * boots))
