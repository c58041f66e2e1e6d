"""Exit codes of both command lines; documented in docs/reference/errors.md."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Whose fault it is, as a number."""

    OK = 0
    BUG = 1
    """Unexpected: a defect in Packhorse."""
    USAGE = 2
    """The command line or a configuration file is wrong."""
    BAD_INPUT = 3
    """A model, data file or document that was handed in is wrong."""
    REFUSED = 4
    """All is well formed, but a quality rule says no; the message names the override if there is one."""
    UNTRUSTED = 5
    """A signature, digest, expiry, version or compatibility check failed."""
    ENVIRONMENT = 6
    """Disk, port, broker, network or a missing runtime."""
    CONFLICT = 7
    """Somebody else holds it, or the state does not allow it now."""
    NOT_FOUND = 8
    """The named device, rollout, bundle or profile does not exist."""
    INTERRUPTED = 130
    """Ctrl-C."""
