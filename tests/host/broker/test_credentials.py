"""The file of credentials: laws, bad input, damage, several writers."""

from __future__ import annotations

import base64
import hashlib
import multiprocessing
from pathlib import Path

import bcrypt
import pytest

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_host.broker import CONTROLLER_USERNAME, CredentialStore, Role, generate_password
from packhorse_host.errors import BadInputError, EnvironmentFaultError, NotFoundError, PackhorseError


@pytest.fixture
def store(tmp_path: Path) -> CredentialStore:
    return CredentialStore(tmp_path / "broker")


def test_added_usernames_are_there_sorted_and_durable(store: CredentialStore, tmp_path: Path) -> None:
    assert store.usernames() == ()
    assert store.stamp() is None
    store.add("d2", "b")
    store.add(CONTROLLER_USERNAME, "c", Role.CONTROLLER)
    store.add("d1", "a")
    again = CredentialStore(tmp_path / "broker")
    assert again.usernames() == (CONTROLLER_USERNAME, "d1", "d2")
    assert [one.role for one in again.credentials()] == [Role.CONTROLLER, Role.DEVICE, Role.DEVICE]
    again.remove("d1")
    assert store.usernames() == (CONTROLLER_USERNAME, "d2")


def test_both_hashes_are_of_the_password_each_with_its_own_salt(store: CredentialStore) -> None:
    password = generate_password()
    store.add("d1", password)
    store.add("d2", password)
    one, two = store.credentials()
    assert bcrypt.checkpw(password.encode(), one.bcrypt.encode())
    _, seven, iterations, salt, digest = one.pbkdf2_sha512.split("$")
    expected = hashlib.pbkdf2_hmac("sha512", password.encode(), base64.b64decode(salt), int(iterations))
    assert (seven, base64.b64decode(digest)) == ("7", expected)
    assert one.bcrypt != two.bcrypt
    assert one.pbkdf2_sha512 != two.pbkdf2_sha512


def test_adding_again_replaces_the_password_and_changes_the_stamp(store: CredentialStore) -> None:
    store.add("d1", "old")
    before = store.stamp()
    store.add("d1", "new")
    (one,) = store.credentials()
    assert bcrypt.checkpw(b"new", one.bcrypt.encode())
    assert store.stamp() != before


def test_generated_passwords_differ_and_fit(store: CredentialStore) -> None:
    assert generate_password() != generate_password()
    store.add("d1", generate_password())


def test_the_file_is_private_and_holds_no_password(store: CredentialStore, tmp_path: Path) -> None:
    store.add("d1", "correct horse")
    file = tmp_path / "broker" / "credentials.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert b"correct horse" not in file.read_bytes()
    assert sorted(one.name for one in file.parent.iterdir()) == ["credentials.json", "credentials.lock"]


@pytest.mark.parametrize(
    "username",
    ["", "D1", "-d", ".d", "a b", "a/b", "a+b", "+", "#", "a#", "%u", "a:b", "a\nb", "d1\n", "ä", "a" * 64,
     "$s", "__x", "_"],
)  # fmt: skip
@pytest.mark.parametrize("role", list(Role))
def test_a_username_that_is_unsafe_in_a_topic_is_refused(
    store: CredentialStore, username: str, role: Role
) -> None:
    with pytest.raises(BadInputError):
        store.add(username, "password", role)
    assert store.usernames() == ()


def test_no_device_can_pass_for_a_controller(store: CredentialStore) -> None:
    with pytest.raises(BadInputError, match="only a controller's begins with"):
        store.add(CONTROLLER_USERNAME, "password")
    with pytest.raises(BadInputError):
        store.add("d1", "password", Role.CONTROLLER)


@pytest.mark.parametrize("password", ["", "a" * 73, "ä" * 37, "a\0b"])
def test_a_password_that_no_broker_could_check_is_refused(store: CredentialStore, password: str) -> None:
    with pytest.raises(BadInputError, match="72 bytes"):
        store.add("d1", password)


def test_removing_whom_nobody_knows_is_not_found(store: CredentialStore) -> None:
    store.add("d1", "a")
    with pytest.raises(NotFoundError, match="d2"):
        store.remove("d2")
    assert store.usernames() == ("d1",)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 2, "credentials": []}', '{"format": 1, "credentials": [{"username": "d1"}]}',
     '{"format": 1, "credentials": [{"username": "d1\\nlistener 1", "role": "device", "pbkdf2_sha512": '
     '"$7$1$aa$aa", "bcrypt": "$2b$06$HvXoESWgqoHqUUsmDVXmT.7lDFNZY8bDyUsbsw8XCqvDDZbiCPSCe"}]}',
     '{"format": 1, "credentials": [{"username": "d1", "role": "device", "pbkdf2_sha512": '
     '"$7$1$aa$aa\\nroot:x", "bcrypt": "$2b$06$HvXoESWgqoHqUUsmDVXmT.7lDFNZY8bDyUsbsw8XCqvDDZbiCPSCe"}]}'],
)  # fmt: skip
def test_a_damaged_file_is_an_error_and_stays_as_it_is(
    store: CredentialStore, tmp_path: Path, text: str
) -> None:
    """Starting from nothing would lock every device out; a forged line must not reach a configuration."""
    store.add("d1", "a")
    file = tmp_path / "broker" / "credentials.json"
    file.write_text(text)
    for act in (store.usernames, lambda: store.add("d2", "b"), lambda: store.remove("d1")):
        with pytest.raises(EnvironmentFaultError, match="damaged") as caught:
            act()
        assert caught.value.exit_code is ExitCode.ENVIRONMENT
    assert file.read_text() == text


def test_bytes_that_are_no_text_are_an_error(store: CredentialStore, tmp_path: Path) -> None:
    store.add("d1", "a")
    (tmp_path / "broker" / "credentials.json").write_bytes(b"\xff\xfe")
    with pytest.raises(EnvironmentFaultError, match="cannot read"):
        store.usernames()


def test_a_failing_disk_leaves_the_old_file(
    store: CredentialStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("d1", "a")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("packhorse_host.broker.files.os.fsync", full)
    with pytest.raises(PackhorseError, match="No space left"):
        store.add("d2", "b")
    assert store.usernames() == ("d1",)
    assert len(list((tmp_path / "broker").iterdir())) == 2


def _add_several(folder: Path, first: int) -> None:
    store = CredentialStore(folder)
    for number in range(first, first + 5):
        store.add(f"d{number}", "a")


def test_two_processes_that_enroll_at_once_lose_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=_add_several, args=(folder, first)) for first in (0, 5, 10)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
        assert writer.exitcode == 0
    assert set(CredentialStore(folder).usernames()) == {f"d{number}" for number in range(15)}
