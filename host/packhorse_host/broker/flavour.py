"""What one broker does its own way: its files, its command line, its log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packhorse_host.broker.entries import Credential
from packhorse_host.broker.settings import BrokerSettings
from packhorse_host.errors import ConfigError


@dataclass(frozen=True)
class ConfigurationFile:
    """One file that the broker reads, by its name in the broker's folder."""

    name: str
    text: str


@dataclass(frozen=True)
class Flavour:
    """One kind of broker."""

    render: Callable[[BrokerSettings, int, Sequence[Credential]], tuple[ConfigurationFile, ...]]
    """All its files, from settings, the port and the credentials; pure."""
    arguments: Callable[[Path], tuple[str, ...]]
    """What follows the program's name, from the folder; it stays in the foreground and logs to stderr."""
    reloaded: str
    """In its log once a SIGHUP has taken effect, or will have before the next packet is read."""
    reload_failed: str | None
    """In its log when it keeps the configuration from before."""


def configured_path(path: Path) -> str:
    """An absolute path as a line of configuration can hold it.

    Raises:
        ConfigError: it has a line break, or is not text.
    """
    text = str(path.absolute())
    if not text.isprintable():
        raise ConfigError(f"the broker's configuration cannot hold this path: {text!r}")
    return text
