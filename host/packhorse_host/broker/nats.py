"""The NATS server with its MQTT listener: its configuration as text.

Source: docs.nats.io, "MQTT configuration" and "Authorization"; measured with 2.15.1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from packhorse_host.broker.access import access_of
from packhorse_host.broker.entries import Credential, Role
from packhorse_host.broker.flavour import ConfigurationFile, Flavour, configured_path
from packhorse_host.broker.settings import MESSAGE_MAX_BYTES, BrokerSettings, BrokerTls

_CONFIGURATION: Final = "nats.conf"
_STATE_FOLDER: Final = "nats"

_STATE_MAX_BYTES: Final = 1024**3
_IN_FLIGHT_MAX: Final = 256
_DELIVERY = "$MQTT.sub.>"
"""Where the server hands QoS 1 messages to a client's own subscription; no client may subscribe to it."""

_NOBODY: Final = Credential(
    username="nobody",
    role=Role.DEVICE,
    pbkdf2_sha512="$7$1$AA==$AA==",
    bcrypt="$2b$06$LpLu/cs49ZQdI2wjioD6vOs9Ao.i/rCxOBhZS9P0FCdkofyR0KK42",
)
"""Takes the place of the first user: with an empty list the server lets everybody do everything."""


def render(
    settings: BrokerSettings, port: int, credentials: Sequence[Credential]
) -> tuple[ConfigurationFile, ...]:
    """The one file that the server reads.

    Raises:
        ConfigError: a path cannot be written into a configuration.
    """
    return (ConfigurationFile(_CONFIGURATION, _configuration(settings, port, credentials)),)


def arguments(folder: Path) -> tuple[str, ...]:
    """What follows the program's name."""
    return ("-c", str(folder / _CONFIGURATION))


def subject_filter(topic_filter: str) -> str:
    """An MQTT topic filter as a NATS subject: levels are split by '.', a dot within one becomes '//'.

    Covers what `access` produces: a wildcard fills its level, no level is empty.
    """
    wildcards = {"+": "*", "#": ">"}
    levels = topic_filter.split("/")
    return ".".join(wildcards.get(level, level.replace(".", "//")) for level in levels)


def _configuration(settings: BrokerSettings, port: int, credentials: Sequence[Credential]) -> str:
    state = configured_path(settings.folder / _STATE_FOLDER)
    lines = [
        'server_name: "packhorse"',
        # The server insists on a port for its own protocol; no user below may log in there.
        'listen: "127.0.0.1:-1"',
        f"max_payload: {MESSAGE_MAX_BYTES}",
        f"jetstream {{ store_dir: {_quoted(state)}, max_file_store: {_STATE_MAX_BYTES} }}",
        "mqtt {",
        f"  host: {_quoted(settings.host)}",
        f"  port: {port}",
        f"  max_ack_pending: {_IN_FLIGHT_MAX}",
        *(_tls(settings.tls) if settings.tls else ()),
        "}",
        "authorization {",
        "  users: [",
        *(_user(one) for one in credentials or (_NOBODY,)),
        "  ]",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _tls(tls: BrokerTls) -> list[str]:
    lines = [
        "  tls {",
        f"    cert_file: {_quoted(configured_path(tls.certificate_file))}",
        f"    key_file: {_quoted(configured_path(tls.key_file))}",
    ]
    if tls.ca_file:
        lines.append(f"    ca_file: {_quoted(configured_path(tls.ca_file))}")
    if tls.require_client_certificate:
        lines.append("    verify: true")
    return [*lines, "  }"]


def _user(credential: Credential) -> str:
    access = access_of(credential.role, credential.username)
    publish = [subject_filter(one) for one in access.publish]
    subscribe = [subject_filter(one) for one in access.subscribe]
    # 'a/#' in MQTT matches 'a' too; the server asks for that right separately.
    parents = [one.removesuffix(".>") for one in subscribe if one.endswith(".>")]
    return (
        f"    {{ user: {_quoted(credential.username)}, password: {_quoted(credential.bcrypt)}, "
        f'allowed_connection_types: ["MQTT"], permissions: {{ '
        f"publish: {json.dumps(publish)}, subscribe: {json.dumps([*subscribe, *parents, _DELIVERY])} }} }}"
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


NATS: Final = Flavour(
    render,
    arguments,
    reloaded="Reloaded server configuration",
    reload_failed="Failed to reload server configuration",
)
