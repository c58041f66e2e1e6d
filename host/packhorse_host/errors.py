"""Errors of the host, by whose fault it is; the same tree and exit codes as the agent's.

The host raises the agent's classes for what both know (a tampered bundle is `UntrustedError` on either
side) and adds what only the host decides.
"""

from __future__ import annotations

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.errors import (
    AgentError,
    BadInputError,
    ConfigError,
    ConflictError,
    EnvironmentFaultError,
    NotFoundError,
    UntrustedError,
)

__all__ = [
    "BadInputError",
    "ConfigError",
    "ConflictError",
    "EnvironmentFaultError",
    "NotFoundError",
    "PackhorseError",
    "RefusedError",
    "UntrustedError",
]

PackhorseError = AgentError
"""Base of all errors raised on purpose, on either side."""


class RefusedError(PackhorseError):
    """Well formed, but a quality rule says no; the text names the override if there is one."""

    exit_code = ExitCode.REFUSED
