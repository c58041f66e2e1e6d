"""Enrolment: the key into the database, the name to the broker, all a device needs into one document."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from packhorse_agent.contract.enrolment import Enrolment, SigningRequest
from packhorse_agent.trust.keys import DeviceKey, make_signing_request
from packhorse_host.broker import CredentialStore
from packhorse_host.errors import (
    BadInputError,
    ConfigError,
    ConflictError,
    NotFoundError,
    PackhorseError,
    UntrustedError,
)
from packhorse_host.fleet.database import latest_deployments, load_audit
from packhorse_host.fleet.devices import (
    load_device,
    load_devices,
    load_history,
    set_online,
    store_deployment,
    store_inventory,
)
from packhorse_host.fleet.enrol import enrol_device, expel_device, read_signing_request
from packhorse_host.fleet.opened import OpenedFleet, open_fleet
from packhorse_host.repository import KeyPlan
from packhorse_host.workspace import SETTINGS_FILE, Workspace
from tests.authority import Authority
from tests.fakes.fleet import state
from tests.host.telemetry.test_ingest import inventory


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "fleet", "farm", KeyPlan(1, 1, None), 2883)


@pytest.fixture
def fleet(workspace: Workspace) -> Iterator[OpenedFleet]:
    with open_fleet(workspace.folder) as opened:
        yield opened


def request(folder: Path, name: str = "camera.7", profile: str = "raspberry-pi-5") -> SigningRequest:
    return make_signing_request(DeviceKey.load_or_create(folder / f"{name}.key"), name, profile)


def enrol(fleet: OpenedFleet, asked: SigningRequest, *tags: str) -> Enrolment:
    return enrol_device(fleet, asked, tags or None, "me", time.time())


def test_an_enrolled_device_is_known_and_let_in(fleet: OpenedFleet, tmp_path: Path) -> None:
    asked = request(tmp_path)
    enrolment = enrol(fleet, asked, "canary", "lab", "lab")
    assert (enrolment.fleet, enrolment.device_id) == ("farm", "camera.7")
    assert (enrolment.broker.host, enrolment.broker.port) == ("127.0.0.1", 2883)
    assert enrolment.broker.tls_ca_pem is None
    assert enrolment.root_metadata.encode() == fleet.repository.root_metadata()
    assert CredentialStore(fleet.workspace.broker_folder).usernames() == ("camera.7",)
    with fleet.database.transaction() as connection:
        device = load_device(connection, "camera.7")
        assert (device.public_key, device.tags) == (asked.public_key, ("canary", "lab"))
        assert not device.online
        assert device.for_planning.simulated is None, "it has not said yet"
        assert [entry.text for entry in load_audit(connection)] == ["enrol camera.7 as raspberry-pi-5"]


def test_enrolling_again_gives_a_new_password_and_keeps_the_tags(fleet: OpenedFleet, tmp_path: Path) -> None:
    first = enrol(fleet, request(tmp_path), "canary")
    second = enrol(fleet, request(tmp_path, profile="raspberry-pi-4"))
    assert first.broker.password != second.broker.password
    with fleet.database.transaction() as connection:
        device = load_device(connection, "camera.7")
    assert (device.tags, device.profile) == (("canary",), "raspberry-pi-4")
    enrol(fleet, request(tmp_path), "field")
    with fleet.database.transaction() as connection:
        assert load_device(connection, "camera.7").tags == ("field",)


def test_a_name_belongs_to_one_key(fleet: OpenedFleet, tmp_path: Path) -> None:
    (tmp_path / "thief").mkdir()
    before = enrol(fleet, request(tmp_path))
    credentials = CredentialStore(fleet.workspace.broker_folder).credentials()
    with pytest.raises(ConflictError, match="another key"):
        enrol(fleet, request(tmp_path / "thief"))
    assert CredentialStore(fleet.workspace.broker_folder).credentials() == credentials
    with fleet.database.transaction() as connection:
        assert load_device(connection, before.device_id).public_key == request(tmp_path).public_key


def rekey(fleet: OpenedFleet, folder: Path) -> SigningRequest:
    """Enrol the same name with another key."""
    folder.mkdir()
    asked = request(folder)
    enrol_device(fleet, asked, None, "me", 9.0, replace_key=True)
    return asked


def test_a_device_that_lost_its_key_comes_back_with_another_one(fleet: OpenedFleet, tmp_path: Path) -> None:
    first = request(tmp_path)
    password = enrol(fleet, first, "canary").broker.password
    with fleet.database.transaction() as connection:
        store_inventory(connection, "camera.7", inventory(), 5.0)
    again = rekey(fleet, tmp_path / "reset")
    with fleet.database.transaction() as connection:
        device = load_device(connection, "camera.7")
        texts = [entry.text for entry in load_audit(connection)]
    assert device.public_key == again.public_key != first.public_key
    assert device.tags == ("canary",)
    assert device.inventory is None, "what the old key said of the device counts no more"
    assert texts[-1] == f"enrol camera.7 as raspberry-pi-5, key replaced by {again.public_key}"
    assert enrol(fleet, again).broker.password != password


def test_a_replaced_key_never_comes_back(fleet: OpenedFleet, tmp_path: Path) -> None:
    """Else all that it ever signed could be taken in once more: a new key's numbers begin anew."""
    first = request(tmp_path)
    enrol(fleet, first)
    again = rekey(fleet, tmp_path / "reset")
    with pytest.raises(ConflictError, match="replaced"):
        enrol_device(fleet, first, None, "me", 10.0, replace_key=True)
    with fleet.database.transaction() as connection:
        assert load_device(connection, "camera.7").public_key == again.public_key


def test_replacing_a_key_by_itself_or_of_a_new_device_is_plain_enrolment(
    fleet: OpenedFleet, tmp_path: Path
) -> None:
    for _ in range(2):
        enrol_device(fleet, request(tmp_path), None, "me", 9.0, replace_key=True)
    with fleet.database.transaction() as connection:
        assert {entry.text for entry in load_audit(connection)} == {"enrol camera.7 as raspberry-pi-5"}


def test_what_the_old_key_reported_counts_for_no_rollout(fleet: OpenedFleet, tmp_path: Path) -> None:
    enrol(fleet, request(tmp_path))
    with fleet.database.transaction() as connection:
        store_deployment(connection, "camera.7", state(1), 5.0)
    again = rekey(fleet, tmp_path / "reset")
    with fleet.database.transaction() as connection:
        assert latest_deployments(connection, state(1).rollout_id, state(1).generation) == []
        assert load_history(connection, "camera.7") == [state(1)], "and is kept"
        store_deployment(connection, "camera.7", state(1), 6.0)
        assert len(latest_deployments(connection, state(1).rollout_id, state(1).generation)) == 1
    assert again.device_id == "camera.7"


def test_a_removed_device_is_shut_out_and_its_history_stays(fleet: OpenedFleet, tmp_path: Path) -> None:
    enrol(fleet, request(tmp_path), "canary")
    enrol(fleet, request(tmp_path, "camera.8"), "canary")
    with fleet.database.transaction() as connection:
        store_deployment(connection, "camera.7", state(1), 5.0)
        set_online(connection, "camera.7", True)
    assert expel_device(fleet, "camera.7", "me", 9.0)
    assert not expel_device(fleet, "camera.7", "me", 10.0), "twice is harmless"
    assert CredentialStore(fleet.workspace.broker_folder).usernames() == ("camera.8",)
    with fleet.database.transaction() as connection:
        assert [one.device_id for one in load_devices(connection)] == ["camera.8"]
        everybody = load_devices(connection, with_removed=True)
        assert [one.removed_unix_s for one in everybody] == [9.0, None]
        set_online(connection, "camera.7", True)
        device = load_device(connection, "camera.7")
        assert (device.removed_unix_s, device.online) == (9.0, False)
        assert load_history(connection, "camera.7") == [state(1)]
        assert load_audit(connection)[-1].text == "remove camera.7"


def test_a_removal_that_was_killed_half_way_is_completed(fleet: OpenedFleet, tmp_path: Path) -> None:
    enrol(fleet, request(tmp_path))
    expel_device(fleet, "camera.7", "me", 9.0)
    CredentialStore(fleet.workspace.broker_folder).add("camera.7", "left behind")
    expel_device(fleet, "camera.7", "me", 10.0)
    assert CredentialStore(fleet.workspace.broker_folder).usernames() == ()


def test_a_removed_device_may_be_enrolled_again(fleet: OpenedFleet, tmp_path: Path) -> None:
    enrol(fleet, request(tmp_path), "canary")
    expel_device(fleet, "camera.7", "me", 9.0)
    with pytest.raises(ConflictError, match="--replace-key"):
        (tmp_path / "other").mkdir()
        enrol(fleet, request(tmp_path / "other"))
    enrol(fleet, request(tmp_path))
    with fleet.database.transaction() as connection:
        (device,) = load_devices(connection)
    assert (device.removed_unix_s, device.tags) == (None, ("canary",))
    assert CredentialStore(fleet.workspace.broker_folder).usernames() == ("camera.7",)


def test_who_was_never_enrolled_cannot_be_removed(fleet: OpenedFleet) -> None:
    with pytest.raises(NotFoundError, match=r"camera\.7"):
        expel_device(fleet, "camera.7", "me", 9.0)


@pytest.mark.parametrize("tag", ["", "UPPER", "a b", "x" * 64, "a/b"])
def test_a_tag_that_is_none_is_refused_before_anything_is_done(
    fleet: OpenedFleet, tmp_path: Path, tag: str
) -> None:
    with pytest.raises(BadInputError, match="no tag"):
        enrol(fleet, request(tmp_path), "fine", tag)
    with fleet.database.transaction() as connection:
        assert load_devices(connection) == []


def test_with_tls_the_device_learns_whom_to_trust_and_where(workspace: Workspace) -> None:
    authority = Authority(workspace.broker_folder)
    certificate_file, key_file = authority.issue("broker")
    tls = (
        '[broker]\npublic_host = "fleet.example"\n[broker.tls]\n'
        f'certificate_file = "broker/{certificate_file.name}"\nkey_file = "broker/{key_file.name}"\n'
        'ca_file = "broker/authority.pem"\n'
    )
    (workspace.folder / SETTINGS_FILE).write_text(f'fleet = "farm"\n{tls}')
    with open_fleet(workspace.folder) as fleet:
        enrolment = enrol(fleet, request(workspace.folder))
    assert enrolment.broker.tls_ca_pem == authority.file.read_text()
    assert enrolment.broker.host == "fleet.example"


@pytest.mark.parametrize(
    "tls", ['ca_file = "broker/none.pem"', "require_client_certificate = true"], ids=["missing", "not named"]
)
def test_tls_without_its_files_is_a_wrong_setting(workspace: Workspace, tls: str) -> None:
    (workspace.folder / SETTINGS_FILE).write_text(f'fleet = "farm"\n[broker.tls]\n{tls}\n')
    with open_fleet(workspace.folder) as fleet, pytest.raises(ConfigError):
        enrol(fleet, request(workspace.folder))


def changed(**changes: Any) -> Any:
    return lambda content: json.dumps({**json.loads(content), **changes})


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda _: "", BadInputError),
        (lambda _: "not json", BadInputError),
        (lambda _: "[]", BadInputError),
        (lambda text: text[:-30], BadInputError),
        (changed(public_key="12"), BadInputError),
        (changed(device_id="../../etc"), BadInputError),
        (changed(signature=None), BadInputError),
        (changed(device_id="camera.8"), UntrustedError),
        (changed(profile="jetson-orin-nano"), UntrustedError),
        (changed(public_key="0" * 64), UntrustedError),
        (changed(signature="0" * 128), UntrustedError),
    ],
)
def test_a_request_that_is_none_or_was_changed_is_refused(
    tmp_path: Path, change: Any, error: type[PackhorseError]
) -> None:
    path = tmp_path / "request.json"
    path.write_text(change(request(tmp_path).model_dump_json()))
    with pytest.raises(error):
        read_signing_request(path)


def test_a_request_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="packhorse-agent request"):
        read_signing_request(tmp_path / "none.json")


def test_the_workspace_keeps_its_secrets(fleet: OpenedFleet, tmp_path: Path) -> None:
    enrolment = enrol(fleet, request(tmp_path))
    stored = fleet.workspace.broker_folder / "credentials.json"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert enrolment.broker.password not in stored.read_text()
