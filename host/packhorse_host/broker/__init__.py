"""The MQTT broker that runs as a child of the controller, and who may use it.

Mosquitto where it is installed, else the NATS server that pip installs; why, and what each does its own way,
is in docs/decisions/0001-embedded-broker.md.
"""

from packhorse_host.broker.credentials import CredentialStore, generate_password
from packhorse_host.broker.discovery import find_broker
from packhorse_host.broker.entries import CONTROLLER_USERNAME, Credential, Role
from packhorse_host.broker.errors import (
    BrokerCrashLoopError,
    BrokerNotFoundError,
    BrokerReloadError,
    BrokerStartError,
    PortTakenError,
)
from packhorse_host.broker.server import EmbeddedBroker, PollResult
from packhorse_host.broker.settings import BrokerKind, BrokerSettings, BrokerTls, Endpoint

__all__ = [
    "CONTROLLER_USERNAME",
    "BrokerCrashLoopError",
    "BrokerKind",
    "BrokerNotFoundError",
    "BrokerReloadError",
    "BrokerSettings",
    "BrokerStartError",
    "BrokerTls",
    "Credential",
    "CredentialStore",
    "EmbeddedBroker",
    "Endpoint",
    "PollResult",
    "PortTakenError",
    "Role",
    "find_broker",
    "generate_password",
]
