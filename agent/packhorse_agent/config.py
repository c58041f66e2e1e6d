"""The agent's configuration: one TOML file.

::

    state_folder = "/var/lib/packhorse"
    profile = "raspberry-pi-5"          # or the path of a profile's file

    [slots.detector]
    http = "127.0.0.1:8080"             # port 0: a free one; without `http` the slot has its Unix socket only

    [telemetry]
    window_s = 60

Paths are relative to the file that holds them.
"""

from __future__ import annotations

import ipaddress
import platform
import re
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from packhorse_agent.contract.base import HumanDocument, Name
from packhorse_agent.contract.profile import Profile
from packhorse_agent.errors import ConfigError, NotFoundError
from packhorse_agent.profiles import detect_profile, find_profile
from packhorse_agent.toml_files import read_toml

_MIB = 1024 * 1024


class HostPort(NamedTuple):
    """An address to listen on; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_loopback(text: object) -> HostPort:
    """Read `127.0.0.1:8080`, `[::1]:8080` or `localhost:8080`. Law: `parse_loopback(str(a)) == a`.

    Raises:
        ValueError: not host and port, or an address that other machines can reach.
    """
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})", str(text))
    if found is None or int(found[3]) > 65535:
        raise ValueError('must be host and port, such as "127.0.0.1:8080"')
    host = found[1] or found[2]
    if host != "localhost" and not _is_loopback(host):
        raise ValueError("the inference port is for this machine only: use 127.0.0.1, [::1] or localhost")
    return HostPort(host, int(found[3]))


LoopbackAddress = Annotated[HostPort, PlainValidator(parse_loopback), PlainSerializer(str)]


class SlotSettings(HumanDocument):
    """One slot's own settings; a slot that a rollout names needs none."""

    http: LoopbackAddress | None = None
    """None: the Unix socket only."""
    token: str = ""
    """Given: each HTTP request must carry it as a bearer token."""


class TelemetrySettings(HumanDocument):
    """What is measured, and how long it is kept while the controller cannot be reached."""

    window_s: Annotated[int, Field(ge=1, le=3600)] = 60
    spool_max_bytes: Annotated[int, Field(ge=64 * 1024)] = 32 * _MIB
    spool_max_age_s: Annotated[float, Field(gt=0)] = 30 * 86400.0


class MqttSettings(HumanDocument):
    """What differs from the enrolment."""

    host: Annotated[str, Field(min_length=1)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> MqttSettings:
        if (self.client_certificate is None) is not (self.client_key is None):
            raise ValueError("client_certificate and client_key go together")
        return self


class StorageSettings(HumanDocument):
    """How much the store may hold."""

    budget_mib: Annotated[int, Field(ge=16)] | None = None
    """None: the profile's."""


def host_device_id() -> str:
    """The host's name as a device's name; `device` where nothing of it can be used."""
    short = platform.node().split(".")[0].lower()
    return re.sub(r"[^a-z0-9-]+", "-", short).strip("-")[:63] or "device"


class AgentConfig(HumanDocument):
    """Everything that a person decides about one agent."""

    state_folder: Path
    device_id: Name = Field(default_factory=host_device_id)
    profile: Annotated[str, Field(min_length=1)]
    """Name of a built-in profile, or the path of a profile's file."""
    simulate_hardware: bool = False
    """Waive the check of architecture and operating system; everything reported then says `simulated`."""
    memory_limit_bytes: Annotated[int, Field(ge=16 * _MIB)] | None = None
    """Of each worker; None: no limit."""
    slots: dict[Name, SlotSettings] = Field(default_factory=dict)
    telemetry: TelemetrySettings = TelemetrySettings()
    mqtt: MqttSettings = MqttSettings()
    storage: StorageSettings = StorageSettings()

    @model_validator(mode="after")
    def _ports_are_distinct(self) -> AgentConfig:
        taken: dict[HostPort, str] = {}
        for slot, settings in self.slots.items():
            if settings.http is not None and settings.http.port != 0:
                other = taken.setdefault(settings.http, slot)
                if other != slot:
                    raise ValueError(f"slots {other} and {slot} both listen on {settings.http}")
        return self

    def storage_budget_bytes(self, profile: Profile) -> int:
        """How many bytes the store may hold."""
        return (self.storage.budget_mib or profile.budget.storage_mib) * _MIB


def load_config(path: Path) -> AgentConfig:
    """Read the agent's configuration; its paths come back absolute.

    Raises:
        ConfigError: no such file, not TOML, an unknown key (with the nearest right one) or a wrong value; a
            missing profile is answered with the one that is detected.
    """
    detected = detect_profile()
    advice = {"profile": f'this machine looks like "{detected}"'} if detected else {}
    config = read_toml(path, AgentConfig, advice)
    folder = path.absolute().parent
    changes: dict[str, object] = {"state_folder": folder / config.state_folder.expanduser()}
    if config.profile.endswith(".toml"):
        changes["profile"] = str(folder / Path(config.profile).expanduser())
    if config.mqtt.client_certificate and config.mqtt.client_key:
        files = {
            "client_certificate": folder / config.mqtt.client_certificate.expanduser(),
            "client_key": folder / config.mqtt.client_key.expanduser(),
        }
        changes["mqtt"] = config.mqtt.model_copy(update=files)
    return config.model_copy(update=changes)


def load_configured_profile(config: AgentConfig) -> Profile:
    """The profile that the configuration decides for.

    Raises:
        ConfigError: there is no such profile, or its file is wrong.
    """
    try:
        return find_profile(config.profile)
    except NotFoundError as error:
        raise ConfigError(f"profile: {error}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
