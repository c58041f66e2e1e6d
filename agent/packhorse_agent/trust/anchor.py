"""The root metadata that a device is given by hand: what it trusts from the first day on."""

from __future__ import annotations

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError

from packhorse_agent.trust.errors import MalformedMetadataError
from packhorse_agent.trust.translate import translate


def check_anchor(root_metadata: bytes) -> None:
    """See that it is root metadata which its own keys signed; its date does not matter, a newer root follows.

    Raises:
        MalformedMetadataError: it cannot be read, or is another role's.
        BadSignatureError: not enough of the keys that it names signed it.
    """
    name = "root metadata"
    try:
        anchor = Metadata[Root].from_bytes(root_metadata)
        if not isinstance(anchor.signed, Root):
            raise MalformedMetadataError(f"{name} expected, not that of {anchor.signed.type}")
        anchor.signed.verify_delegate(Root.type, anchor.signed_bytes, anchor.signatures)
    except (DeserializationError, RepositoryError) as error:
        raise translate(error, name) from error
