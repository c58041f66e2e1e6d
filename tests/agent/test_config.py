"""The agent's configuration: what a person decides, and what is said about slips."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.config import (
    AgentConfig,
    HostPort,
    host_device_id,
    load_config,
    load_configured_profile,
    parse_loopback,
)
from packhorse_agent.errors import ConfigError
from packhorse_agent.profiles import BUILTIN_FOLDER, builtin_profiles

LEAST = 'state_folder = "state"\nprofile = "raspberry-pi-5"\n'


def load(folder: Path, text: str) -> AgentConfig:
    path = folder / "agent.toml"
    path.write_text(text)
    return load_config(path)


def test_two_lines_are_enough(tmp_path: Path) -> None:
    config = load(tmp_path, LEAST)
    assert config.state_folder == tmp_path / "state"
    assert config.device_id == host_device_id()
    assert not config.simulate_hardware
    assert (config.slots, config.memory_limit_bytes, config.telemetry.window_s) == ({}, None, 60)


def test_everything_can_be_said(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        state_folder = "/var/lib/packhorse"
        profile = "raspberry-pi-5"
        device_id = "cam-7"
        simulate_hardware = true
        memory_limit_bytes = 268435456
        [slots.detector]
        http = "127.0.0.1:8080"
        token = "secret"
        [slots.wake-word]
        http = "[::1]:0"
        [telemetry]
        window_s = 10
        spool_max_bytes = 1000000
        spool_max_age_s = 3600
        [mqtt]
        host = "broker.example"
        port = 8883
        client_certificate = "tls/device.crt"
        client_key = "/etc/tls/device.key"
        [storage]
        budget_mib = 100
        """,
    )
    assert config.state_folder == Path("/var/lib/packhorse")
    assert (config.device_id, config.simulate_hardware) == ("cam-7", True)
    assert config.slots["detector"].http == HostPort("127.0.0.1", 8080)
    assert (config.slots["detector"].token, config.slots["wake-word"].token) == ("secret", "")
    assert config.mqtt.client_certificate == tmp_path / "tls/device.crt"
    assert config.mqtt.client_key == Path("/etc/tls/device.key")
    assert config.storage_budget_bytes(builtin_profiles()["raspberry-pi-5"]) == 100 * 2**20


def test_the_profile_gives_the_storage_budget_where_the_configuration_does_not(tmp_path: Path) -> None:
    profile = builtin_profiles()["raspberry-pi-5"]
    budget = load(tmp_path, LEAST).storage_budget_bytes(profile)
    assert budget == profile.budget.storage_mib * 2**20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('state_folder = "s"', 'key "profile" is missing; this machine looks like "generic-x86_64"'),
        ('profile = "raspberry-pi-5"', 'key "state_folder" is missing'),
        (LEAST + "simulate_hardwar = true", 'did you mean "simulate_hardware"?'),
        (LEAST + 'simulate_hardware = "yes"', "must be true or false"),
        (LEAST + 'device_id = "Cam 7"', 'device_id: "Cam 7" does not have the form'),
        (LEAST + "memory_limit_bytes = 64", "memory_limit_bytes = 64: Input should be greater"),
        (LEAST + '[slots.detector]\nhtpp = ""', 'unknown key "slots.detector.htpp"; did you mean "http"?'),
        (LEAST + '[slots."a/b"]', 'slots.a/b: "a/b" does not have the form'),
        (LEAST + '[slots.a]\nhttp = "0.0.0.0:80"', "for this machine only"),
        (LEAST + '[slots.a]\nhttp = "192.168.1.7:80"', "for this machine only"),
        (LEAST + '[slots.a]\nhttp = "8080"', "must be host and port"),
        (LEAST + "[slots.a]\nhttp = 8080", "must be host and port"),
        (LEAST + '[slots.a]\nhttp = "127.0.0.1:65536"', "must be host and port"),
        (
            LEAST + '[slots.a]\nhttp = "127.0.0.1:80"\n[slots.b]\nhttp = "127.0.0.1:80"',
            "slots a and b both listen on 127.0.0.1:80",
        ),
        (LEAST + "[telemetry]\nwindow = 3", 'unknown key "telemetry.window"; did you mean "window_s"?'),
        (LEAST + "[telemetry]\nwindow_s = 0", "telemetry.window_s = 0"),
        (LEAST + '[mqtt]\nclient_key = "k"', "client_certificate and client_key go together"),
        (LEAST + "[mqtt]\nport = 0", "mqtt.port = 0"),
        (LEAST + "[storage]\nbudget_mib = 1", "storage.budget_mib = 1"),
    ],
)
def test_a_slip_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.setattr("packhorse_agent.config.detect_profile", lambda: "generic-x86_64")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)


def test_two_slots_may_both_take_a_free_port(tmp_path: Path) -> None:
    config = load(tmp_path, LEAST + '[slots.a]\nhttp = "127.0.0.1:0"\n[slots.b]\nhttp = "127.0.0.1:0"')
    assert len(config.slots) == 2


def test_a_profile_in_a_file_is_relative_to_the_configuration(tmp_path: Path) -> None:
    text = (BUILTIN_FOLDER / "raspberry-pi-5.toml").read_text()
    (tmp_path / "my-board.toml").write_text(text.replace('"raspberry-pi-5"', '"my-board"', 1))
    config = load(tmp_path, 'state_folder = "s"\nprofile = "my-board.toml"')
    assert load_configured_profile(config).name == "my-board"


def test_an_unknown_profile_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    config = load(tmp_path, 'state_folder = "s"\nprofile = "raspberry-pi5"')
    with pytest.raises(ConfigError, match='did you mean "raspberry-pi-5"'):
        load_configured_profile(config)


@given(st.sampled_from(["127.0.0.1", "127.8.9.1", "::1", "localhost"]), st.integers(0, 65535))
def test_a_loopback_address_reads_back(host: str, port: int) -> None:
    address = HostPort(host, port)
    assert parse_loopback(str(address)) == address


def test_the_configuration_reads_back_from_json(tmp_path: Path) -> None:
    config = load(tmp_path, LEAST + '[slots.a]\nhttp = "[::1]:8080"')
    assert AgentConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("node", "device_id"),
    [
        ("raspberrypi", "raspberrypi"),
        ("Cam_7.lab.example", "cam-7"),
        ("", "device"),
        ("ÄÖ", "device"),
        ("-x-", "x"),
        ("y" * 80, "y" * 63),
    ],
)
def test_the_hosts_name_becomes_a_device_name(
    monkeypatch: pytest.MonkeyPatch, node: str, device_id: str
) -> None:
    monkeypatch.setattr(platform, "node", lambda: node)
    assert host_device_id() == device_id
    assert AgentConfig(state_folder=Path("s"), profile="p").device_id == device_id
