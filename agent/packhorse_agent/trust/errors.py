"""What the trust package raises.

::

    UntrustedError
    ├── ExpiredMetadataError      freeze: what is offered is past its date
    ├── OlderMetadataError        rollback: older than what was accepted, or something was taken away
    ├── BadSignatureError         not enough valid signatures of the role's keys
    ├── MixedMetadataError        mix-and-match: parts that do not belong together
    ├── MalformedMetadataError    signed or not, it cannot be read
    ├── OversizedMetadataError    endless data: more bytes than signed for, or than any metadata may have
    ├── IncompleteMetadataError   a part is missing that can not be pulled by hash
    ├── WrongFleetError           the rollouts of another fleet
    ├── TamperedBundleError       a bundle's file is not what its manifest says
    ├── TruncatedBundleError      a bundle's file is missing or too short
    └── BadSigningRequestError    an enrolment request that its own key did not sign
    BadInputError
    └── NotABundleError           a folder without a readable manifest
    ConfigError
    └── DeviceKeyError            the device's key file is no private key
"""

from __future__ import annotations

from packhorse_agent.errors import BadInputError, ConfigError, UntrustedError


class ExpiredMetadataError(UntrustedError):
    """What is offered is past its date: a freeze, or a controller that was down too long."""


class OlderMetadataError(UntrustedError):
    """Older than what was accepted before, or something that was there has been taken away."""


class BadSignatureError(UntrustedError):
    """Not enough valid signatures by the keys of the role."""


class MixedMetadataError(UntrustedError):
    """Parts that do not belong together."""


class MalformedMetadataError(UntrustedError):
    """Bytes that cannot be read as what they should be."""


class OversizedMetadataError(UntrustedError):
    """More bytes than signed for, or than any metadata may have."""


class IncompleteMetadataError(UntrustedError):
    """A part is missing, and nothing signed says how to get it."""


class WrongFleetError(UntrustedError):
    """Signed, but for another fleet."""


class TamperedBundleError(UntrustedError):
    """A file of a bundle is not what the manifest says."""


class TruncatedBundleError(UntrustedError):
    """A file of a bundle is missing or too short."""


class BadSigningRequestError(UntrustedError):
    """An enrolment request that was not signed with the key that it carries."""


class NotABundleError(BadInputError):
    """A folder without a readable manifest."""


class DeviceKeyError(ConfigError):
    """The device's key file is not a private key."""
