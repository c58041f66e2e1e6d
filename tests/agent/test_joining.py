"""Enrolment on the device: what is taken in, what is refused, and what damage means."""

from __future__ import annotations

import stat
from datetime import datetime, timezone
from pathlib import Path

import pytest

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.enrolment import BrokerAddress, Enrolment
from packhorse_agent.errors import BadInputError, ConfigError, ConflictError
from packhorse_agent.joining import accept_enrolment, request_enrolment
from packhorse_agent.supervisor.identity import ENROLMENT_FILE, KEY_FILE, load_identity
from packhorse_agent.trust.errors import BadSignatureError, DeviceKeyError
from packhorse_agent.trust.keys import DeviceKey, check_signing_request
from tests.agent.trust.simulator import FleetSimulator

DEVICE, PROFILE = "pi-1", "raspberry-pi-5"
SIMULATOR = FleetSimulator()
ROOT = SIMULATOR.roots[0].decode()


def enrolment(device_id: str = DEVICE, fleet: str = "farm") -> Enrolment:
    broker = BrokerAddress(host="broker", port=8883, username=device_id, password="secret")
    return Enrolment(fleet=fleet, device_id=device_id, broker=broker, root_metadata=ROOT)


def test_the_answer_to_an_older_request_is_refused(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "enrolment.json"
    path.write_bytes(canonical_json(enrolment().model_copy(update={"public_key": "0" * 64})))
    with pytest.raises(BadInputError, match=r"another key.*--replace-key"):
        accept_enrolment(state, path, DEVICE)
    assert not (state / ENROLMENT_FILE).exists()


def test_the_answer_to_the_last_request_is_taken(state: Path, tmp_path: Path) -> None:
    key = DeviceKey.load_or_create(state / KEY_FILE).public_hex
    path = tmp_path / "enrolment.json"
    path.write_bytes(canonical_json(enrolment().model_copy(update={"public_key": key})))
    assert accept_enrolment(state, path, DEVICE).public_key == key


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    """What the fleet's owner handed out."""
    path = tmp_path / "enrolment-of-pi-1.json"
    path.write_bytes(canonical_json(enrolment()))
    return path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "deep" / "state"
    request_enrolment(folder, DEVICE, PROFILE)
    return folder


def test_a_request_proves_the_key_and_two_requests_have_the_same(tmp_path: Path) -> None:
    first = request_enrolment(tmp_path / "s", DEVICE, PROFILE)
    check_signing_request(first)
    assert request_enrolment(tmp_path / "s", DEVICE, PROFILE) == first
    assert stat.S_IMODE((tmp_path / "s" / KEY_FILE).stat().st_mode) == 0o600


def test_what_was_accepted_is_who_the_device_is(state: Path, paper: Path) -> None:
    accept_enrolment(state, paper, DEVICE)
    identity = load_identity(state)
    assert (identity.device_id, identity.fleet) == (DEVICE, "farm")
    assert identity.enrolment == enrolment()
    assert stat.S_IMODE((state / ENROLMENT_FILE).stat().st_mode) == 0o600


def test_before_it_is_enrolled_the_advice_is_how(state: Path) -> None:
    with pytest.raises(ConfigError, match="packhorse-agent request"):
        load_identity(state)


def test_the_enrolment_of_another_device_is_refused(state: Path, paper: Path) -> None:
    with pytest.raises(BadInputError, match="enrols pi-1, this device is pi-2"):
        accept_enrolment(state, paper, "pi-2")
    assert not (state / ENROLMENT_FILE).exists()


def test_the_same_enrolment_twice_is_no_error(state: Path, paper: Path) -> None:
    accept_enrolment(state, paper, DEVICE)
    assert accept_enrolment(state, paper, DEVICE) == enrolment()


def test_another_enrolment_is_a_conflict_and_changes_nothing(state: Path, paper: Path) -> None:
    accept_enrolment(state, paper, DEVICE)
    paper.write_bytes(canonical_json(enrolment(fleet="forest")))
    with pytest.raises(ConflictError, match="enrolled already"):
        accept_enrolment(state, paper, DEVICE)
    assert load_identity(state).fleet == "farm"


DAMAGE = [b"", b"{", b"null", b"\xff\xff", b'{"fleet": "farm"}', b'{"format": 2}', b"[" * 100_000]


@pytest.mark.parametrize("content", DAMAGE)
def test_what_is_no_enrolment_is_not_taken(state: Path, paper: Path, content: bytes) -> None:
    paper.write_bytes(content)
    with pytest.raises(BadInputError, match="is no enrolment"):
        accept_enrolment(state, paper, DEVICE)
    assert not (state / ENROLMENT_FILE).exists()


@pytest.mark.parametrize(
    "root_metadata",
    ["", "{}", "null", "no root", ROOT[:-1], SIMULATOR.files()["timestamp.json"].decode(), "[" * 100_000],
)
def test_root_metadata_that_is_none_is_refused_before_anything_is_written(
    state: Path, paper: Path, root_metadata: str
) -> None:
    paper.write_bytes(canonical_json(enrolment().model_copy(update={"root_metadata": root_metadata})))
    with pytest.raises(BadInputError, match=r"holds no trust anchor: .*packhorse device enroll"):
        accept_enrolment(state, paper, DEVICE)
    assert not (state / ENROLMENT_FILE).exists()


def test_root_metadata_that_its_own_keys_did_not_sign_is_refused(state: Path, paper: Path) -> None:
    root = ROOT.replace('"version":1', '"version":2').replace('"version": 1', '"version": 2')
    assert root != ROOT
    paper.write_bytes(canonical_json(enrolment().model_copy(update={"root_metadata": root})))
    with pytest.raises(BadSignatureError, match="root metadata refused"):
        accept_enrolment(state, paper, DEVICE)
    assert not (state / ENROLMENT_FILE).exists()


def test_a_root_that_is_past_its_date_is_taken_a_newer_one_follows(state: Path, paper: Path) -> None:
    old = FleetSimulator(now=datetime(2020, 1, 1, tzinfo=timezone.utc)).roots[0].decode()
    paper.write_bytes(canonical_json(enrolment().model_copy(update={"root_metadata": old})))
    accept_enrolment(state, paper, DEVICE)
    assert load_identity(state).enrolment.root_metadata == old


def test_a_missing_file_is_no_enrolment(state: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="is no enrolment"):
        accept_enrolment(state, tmp_path / "none.json", DEVICE)


@pytest.mark.parametrize("content", DAMAGE)
def test_a_damaged_enrolment_is_said_and_mended_by_accepting_again(
    state: Path, paper: Path, content: bytes
) -> None:
    accept_enrolment(state, paper, DEVICE)
    (state / ENROLMENT_FILE).write_bytes(content)
    with pytest.raises(BadInputError, match="is no enrolment"):
        load_identity(state)
    accept_enrolment(state, paper, DEVICE)
    assert load_identity(state).fleet == "farm"


def test_a_lost_key_is_not_made_anew_in_silence(state: Path, paper: Path) -> None:
    accept_enrolment(state, paper, DEVICE)
    (state / KEY_FILE).unlink()
    with pytest.raises(ConfigError, match="Restore it"):
        load_identity(state)
    assert not (state / KEY_FILE).exists()


def test_a_damaged_key_is_not_replaced(state: Path, paper: Path) -> None:
    accept_enrolment(state, paper, DEVICE)
    (state / KEY_FILE).write_bytes(b"no key")
    with pytest.raises(DeviceKeyError, match="restore it"):
        load_identity(state)
    assert (state / KEY_FILE).read_bytes() == b"no key"
