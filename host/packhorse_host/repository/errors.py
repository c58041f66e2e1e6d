"""What the repository raises; see `packhorse_host.errors` for the tree.

::

    UntrustedError
    ├── WrongPassphraseError     a key does not open
    └── DamagedRepositoryError   metadata on the disk does not fit together
    ConfigError
    └── MissingKeyError          a key file is not here, or holds no key or the wrong one
    ConflictError
    ├── ReleaseTakenError        another bundle was published under this name before
    └── BusyRepositoryError      another writer does not come to an end
    RefusedError
    └── BelowMinimumError        the release is older than its model's signed minimum
    BadInputError
    └── TooLargeError            a document or role would not fit its bound
"""

from __future__ import annotations

from packhorse_host.errors import BadInputError, ConfigError, ConflictError, RefusedError, UntrustedError


class WrongPassphraseError(UntrustedError):
    """The passphrase does not open a key; nothing was changed."""


class DamagedRepositoryError(UntrustedError):
    """Metadata on the disk is missing or does not fit together."""


class MissingKeyError(ConfigError):
    """A key file is not here, or holds no key or the wrong one."""


class ReleaseTakenError(ConflictError):
    """Another bundle was published under this name before; a release never changes."""


class BusyRepositoryError(ConflictError):
    """Another writer does not come to an end."""


class BelowMinimumError(RefusedError):
    """The release is older than its model's signed minimum."""


class TooLargeError(BadInputError):
    """A document or role would not fit its bound; nothing was changed."""
