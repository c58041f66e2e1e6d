"""What the store raises; see `packhorse_agent.errors` for the tree.

::

    EnvironmentFaultError
    ├── StorageFullError        no space, or over quota
    └── StorageFaultError       the disk or its permissions do not allow it; carries `errno`
    UntrustedError
    └── DigestMismatchError     content is not what its name says
"""

from __future__ import annotations

import errno

from packhorse_agent.errors import EnvironmentFaultError, UntrustedError

_FULL = (errno.ENOSPC, errno.EDQUOT)


class StorageFullError(EnvironmentFaultError):
    """There is not enough space; nothing was half done."""


class StorageFaultError(EnvironmentFaultError):
    """The disk, or the rights on it, do not allow it."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.errno = code


class DigestMismatchError(UntrustedError):
    """Content whose SHA-256 is not the one it is named by."""


def storage_error(error: OSError, what: str) -> EnvironmentFaultError:
    """The store's error for an operating system's one; `what` names the file or folder."""
    text = f"{what}: {error.strerror or error}"
    if error.errno in _FULL:
        return StorageFullError(f"{text}; free some space (on a device, a lower storage budget helps too)")
    return StorageFaultError(text, error.errno or 0)
