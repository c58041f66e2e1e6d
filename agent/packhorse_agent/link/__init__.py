"""MQTT: the only place that imports paho."""

from packhorse_agent.link.mqtt import MqttLink
from packhorse_agent.link.settings import (
    LinkDown,
    LinkEvent,
    LinkSettings,
    LinkUp,
    Message,
    Retained,
    Subscription,
    TlsSettings,
)

__all__ = [
    "LinkDown",
    "LinkEvent",
    "LinkSettings",
    "LinkUp",
    "Message",
    "MqttLink",
    "Retained",
    "Subscription",
    "TlsSettings",
]
