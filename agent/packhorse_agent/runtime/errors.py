"""What opening and running a model may raise.

::

    EnvironmentFaultError
    ├── RuntimeMissingError      not installed, too old, or without the accelerator that the bundle names
    └── InferenceFailedError     the runtime failed on an input that it should have taken
    BadInputError
    ├── ModelLoadError           the file is not a model that the runtime takes
    ├── InputRefusedError        the runtime finds the input wrong
    └── MalformedGoldenError     not a file of golden vectors
"""

from __future__ import annotations

from packhorse_agent.errors import BadInputError, EnvironmentFaultError


class RuntimeMissingError(EnvironmentFaultError):
    """The runtime or the accelerator that a bundle needs is not here; the text says what to install."""


class InferenceFailedError(EnvironmentFaultError):
    """The runtime failed on an input of the right names, datatypes and shapes."""


class ModelLoadError(BadInputError):
    """The file is not a model that the runtime takes, or not the model that its manifest describes."""


class InputRefusedError(BadInputError):
    """The runtime finds the input itself wrong, such as two dimensions that have to be equal and are not."""


class MalformedGoldenError(BadInputError):
    """The file does not hold golden vectors in the right form."""
