"""Mosquitto 2: its configuration as text.

Source of the directives: mosquitto.conf(5) of 2.0.11; of the traps: docs/decisions/0001-embedded-broker.md.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from packhorse_host.broker.access import access_of
from packhorse_host.broker.entries import Credential, Role
from packhorse_host.broker.flavour import ConfigurationFile, Flavour, configured_path
from packhorse_host.broker.settings import MESSAGE_MAX_BYTES, BrokerSettings, BrokerTls

_CONFIGURATION: Final = "mosquitto.conf"
_PASSWORDS: Final = "mosquitto.passwords"
_ACCESS: Final = "mosquitto.access"

_QUEUE_MAX_MESSAGES: Final = 4_000
_QUEUE_MAX_BYTES: Final = 128 * 1024 * 1024
_IN_FLIGHT_MAX: Final = 100
_AUTOSAVE_S: Final = 5


def render(
    settings: BrokerSettings, port: int, credentials: Sequence[Credential]
) -> tuple[ConfigurationFile, ...]:
    """The configuration, the password file and the access list.

    Raises:
        ConfigError: a path cannot be written into a configuration.
    """
    return (
        ConfigurationFile(_PASSWORDS, _passwords(credentials)),
        ConfigurationFile(_ACCESS, _access(credentials)),
        ConfigurationFile(_CONFIGURATION, _configuration(settings, port)),
    )


def arguments(folder: Path) -> tuple[str, ...]:
    """What follows the program's name."""
    return ("-c", str(folder / _CONFIGURATION))


def _configuration(settings: BrokerSettings, port: int) -> str:
    folder = settings.folder
    lines = [
        # As root it would become another user, who may not read the password file.
        f"user {pwd.getpwuid(os.geteuid()).pw_name}",
        f"listener {port} {settings.host}",
        *(_tls(settings.tls) if settings.tls else ()),
        "allow_anonymous false",
        f"password_file {configured_path(folder / _PASSWORDS)}",
        f"acl_file {configured_path(folder / _ACCESS)}",
        "persistence true",
        f"persistence_location {configured_path(folder)}/",
        "persistence_file mosquitto.db",
        # By time: saving on changes writes and syncs the whole database for every message at QoS 1.
        f"autosave_interval {_AUTOSAVE_S}",
        "persistent_client_expiration 14d",
        # Finite: with 0, Mosquitto 2.0 disconnects a client after a publish that it denied. At QoS 0 only
        # the count holds, not the bytes: 4,000 chunks for one client that does not read are 262 MB.
        f"max_queued_messages {_QUEUE_MAX_MESSAGES}",
        f"max_queued_bytes {_QUEUE_MAX_BYTES}",
        f"max_inflight_messages {_IN_FLIGHT_MAX}",
        f"max_packet_size {MESSAGE_MAX_BYTES}",
        "set_tcp_nodelay true",
        "sys_interval 0",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "log_type information",
    ]
    return "\n".join(lines) + "\n"


def _tls(tls: BrokerTls) -> list[str]:
    lines = [
        f"certfile {configured_path(tls.certificate_file)}",
        f"keyfile {configured_path(tls.key_file)}",
    ]
    if tls.ca_file:
        lines.append(f"cafile {configured_path(tls.ca_file)}")
    if tls.require_client_certificate:
        lines.append("require_certificate true")
    return lines


def _passwords(credentials: Sequence[Credential]) -> str:
    return "".join(f"{one.username}:{one.pbkdf2_sha512}\n" for one in credentials)


def _access(credentials: Sequence[Credential]) -> str:
    lines = _rules("pattern", Role.DEVICE, "%u")
    for one in credentials:
        if one.role is Role.CONTROLLER:
            lines += [f"user {one.username}", *_rules("topic", one.role, one.username)]
    return "\n".join(lines) + "\n"


def _rules(keyword: str, role: Role, username: str) -> list[str]:
    access = access_of(role, username)
    return [
        *(f"{keyword} write {one}" for one in access.publish),
        *(f"{keyword} read {one}" for one in access.subscribe),
    ]


MOSQUITTO: Final = Flavour(render, arguments, reloaded="Reloading config.", reload_failed=None)
