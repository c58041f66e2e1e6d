"""What a reader of the contract raises."""

from __future__ import annotations


class MalformedMessageError(ValueError):
    """Bytes from outside that do not follow the contract; the text says what was expected."""


class UnreadableContentError(MalformedMessageError):
    """Signed by whom it should be, but not what this version reads; `content` is what was signed."""

    def __init__(self, text: str, content: bytes) -> None:
        super().__init__(text)
        self.content = content
