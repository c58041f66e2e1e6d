"""A workspace appears whole or not at all, and is found from inside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse_host.errors import ConfigError, ConflictError, NotFoundError
from packhorse_host.repository import KeyPlan
from packhorse_host.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "work", "farm", KeyPlan())


def settings(workspace: Workspace, text: str) -> Workspace:
    (workspace.folder / "packhorse.toml").write_text(text)
    return Workspace.open(workspace.folder)


def test_what_was_made_can_be_opened(workspace: Workspace) -> None:
    opened = Workspace.open(workspace.folder)
    assert opened.settings == workspace.settings
    assert (opened.fleet, opened.settings.broker.port) == ("farm", 1883)
    assert opened.database_url == f"sqlite:///{workspace.folder}/database.sqlite"
    assert opened.repository().version() == 1
    assert (workspace.folder / "keys").stat().st_mode & 0o777 == 0o700


def test_it_is_found_from_inside(workspace: Workspace) -> None:
    inside = workspace.folder / "broker"
    assert Workspace.find(None, inside, {}).folder == workspace.folder


def test_a_named_workspace_goes_before_the_variable_and_the_folder(
    workspace: Workspace, tmp_path: Path
) -> None:
    other = Workspace.create(tmp_path / "other", "garden", KeyPlan())
    variable = {"PACKHORSE_WORKSPACE": str(other.folder)}
    assert Workspace.find(workspace.folder, other.folder, variable).fleet == "farm"
    assert Workspace.find(None, workspace.folder, variable).fleet == "garden"


def test_none_around(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="packhorse init"):
        Workspace.find(None, tmp_path, {})
    with pytest.raises(NotFoundError):
        Workspace.find(tmp_path / "missing", tmp_path, {})


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ConflictError):
        Workspace.create(tmp_path, "farm", KeyPlan())
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert Workspace.create(tmp_path / "empty", "farm", KeyPlan()).repository().version() == 1


@pytest.mark.parametrize("fleet", ["", "Farm", "a b", "../x", "-x", "x" * 64])
def test_a_fleet_needs_a_name(tmp_path: Path, fleet: str) -> None:
    with pytest.raises(ConfigError, match="name a fleet"):
        Workspace.create(tmp_path / "work", fleet, KeyPlan())
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_has_to_be_one(tmp_path: Path, port: int) -> None:
    with pytest.raises(ConfigError, match="port"):
        Workspace.create(tmp_path / "work", "farm", KeyPlan(), port)


def test_an_unknown_key_is_named_with_the_nearest(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match='did you mean "port"'):
        settings(workspace, 'fleet = "farm"\n[broker]\nprot = 1\n')


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fleet = 7",
        'fleet = "farm"\n[broker]\nport = 0',
        'fleet = "farm"\n[broker]\nkind = "amqp"',
        "x = [",
    ],
)
def test_wrong_settings_are_refused(workspace: Workspace, text: str) -> None:
    with pytest.raises(ConfigError, match=r"packhorse\.toml"):
        settings(workspace, text)


def test_devices_are_told_the_public_name_and_the_certificate(workspace: Workspace) -> None:
    assert workspace.broker_ca_pem() is None
    tls = 'certificate_file = "broker/tls.crt"\nkey_file = "broker/tls.key"\n'
    opened = settings(workspace, f'fleet = "farm"\n[broker]\npublic_host = "f.example"\n[broker.tls]\n{tls}')
    assert opened.settings.broker.advertised_host == "f.example"
    with pytest.raises(ConfigError, match=r"tls\.crt"):
        opened.broker_ca_pem()
    (workspace.folder / "broker/tls.crt").write_text("PEM")
    assert opened.broker_ca_pem() == "PEM"
