"""What can go wrong with the embedded broker.

::

    EnvironmentFaultError
    ├── BrokerNotFoundError     no broker that can run is installed
    ├── PortTakenError          somebody else listens there
    ├── BrokerStartError        it ended, or did not listen in time; the text ends with its log
    │   └── BrokerCrashLoopError    it keeps dying after it had started
    └── BrokerReloadError       it runs on with the credentials from before
"""

from __future__ import annotations

from packhorse_host.errors import EnvironmentFaultError


class BrokerNotFoundError(EnvironmentFaultError):
    """No broker of the wanted kind can be run on this machine."""


class PortTakenError(EnvironmentFaultError):
    """The address that the broker should listen on is in use."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} on {host} is taken by another program; choose another with --port")
        self.host = host
        self.port = port


class BrokerStartError(EnvironmentFaultError):
    """The broker could not be started."""


class BrokerCrashLoopError(BrokerStartError):
    """The broker dies again and again; restarting it does not help."""


class BrokerReloadError(EnvironmentFaultError):
    """The broker did not take up changed credentials."""
