"""The devices of the demo."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """One agent on this machine."""

    id: str
    profile: str
    tags: tuple[str, ...]

    @property
    def config(self) -> str:
        """Its configuration file."""
        return f"{self.id}/agent.toml"


DEVICES = (
    Device("pi-1", "raspberry-pi-5", ("canary",)),
    Device("phone-1", "android-arm64", ()),
    Device("jetson-1", "jetson-orin-nano", ()),
)
