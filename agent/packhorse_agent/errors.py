"""Errors of the agent, by whose fault it is.

::

    AgentError                  exit 1 (a defect, unless a subclass says otherwise)
    ├── ConfigError             exit 2: a configuration file or the command line is wrong
    ├── BadInputError           exit 3: a model, data file or document that was handed in is wrong
    ├── UntrustedError          exit 5: a signature, digest, expiry, version or compatibility check failed
    ├── EnvironmentFaultError   exit 6: disk, port, broker, network, missing runtime
    ├── ConflictError           exit 7: somebody else holds it, or the state does not allow it now
    └── NotFoundError           exit 8

Foreign exceptions are translated at the boundary where they come in, with `from`. Modules derive their own
errors from these; a caller never parses a message.
"""

from __future__ import annotations

from packhorse_agent.contract.exit_codes import ExitCode


class AgentError(Exception):
    """Base of all errors that the agent raises on purpose; the text says what to do."""

    exit_code = ExitCode.BUG


class ConfigError(AgentError):
    """A configuration file or the command line is wrong."""

    exit_code = ExitCode.USAGE


class BadInputError(AgentError):
    """Something that was handed in is malformed."""

    exit_code = ExitCode.BAD_INPUT


class UntrustedError(AgentError):
    """A check of authenticity, freshness or compatibility failed."""

    exit_code = ExitCode.UNTRUSTED


class EnvironmentFaultError(AgentError):
    """The machine or the network does not give what is needed."""

    exit_code = ExitCode.ENVIRONMENT


class ConflictError(AgentError):
    """Somebody else holds it, or the state does not allow it now."""

    exit_code = ExitCode.CONFLICT


class NotFoundError(AgentError):
    """The named thing does not exist."""

    exit_code = ExitCode.NOT_FOUND
