"""What conversion raises, on top of the host's tree (see `packhorse_host.errors`).

::

    BadInputError
    ├── UnsupportedConversionError  nobody converts this kind of source for this runtime; names what works
    └── ConversionFailedError       the tool cannot convert this very model, or not faithfully
    EnvironmentFaultError
    ├── ToolEnvironmentError        a tool environment cannot be built here; the text says what is missing
    └── ToolFailedError             a tool died, hung or answered nonsense
"""

from __future__ import annotations

from packhorse_host.errors import BadInputError, EnvironmentFaultError


class UnsupportedConversionError(BadInputError):
    """Nobody converts this kind of source for this runtime; the text names the nearest way that works."""


class ConversionFailedError(BadInputError):
    """The tool cannot convert this very model, or what it made answers differently."""


class ToolEnvironmentError(EnvironmentFaultError):
    """A tool environment cannot be built on this machine; the text says what it needs."""


class ToolFailedError(EnvironmentFaultError):
    """A tool died, took too long or gave no answer; the text ends with the last lines that it printed."""
