"""Who may say and hear what, as MQTT topic filters; each broker's renderer translates them."""

from __future__ import annotations

from dataclasses import dataclass

from packhorse_agent.contract.topics import ROOT
from packhorse_host.broker.entries import Role


@dataclass(frozen=True)
class Access:
    """Topic filters that one username may publish to and subscribe to; all else is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def access_of(role: Role, username: str) -> Access:
    """The rights of one username; a broker's placeholder for it gives the rule for all devices."""
    if role is Role.CONTROLLER:
        return Access(publish=(f"{ROOT}/#",), subscribe=(f"{ROOT}/#",))
    own = f"{ROOT}/+/device/{username}/#"
    return Access(
        publish=(own, f"{ROOT}/+/want/+/{username}"),
        subscribe=(f"{ROOT}/+/trust", f"{ROOT}/+/blob/+", own),
    )
