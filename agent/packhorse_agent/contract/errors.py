"""What a reader of the contract raises."""

from __future__ import annotations


class MalformedMessageError(ValueError):
    """Bytes from outside that do not follow the contract; the text says what was expected."""
