"""What packing raises, on top of the host's tree (see `packhorse_host.errors`).

::

    RefusedError
    ├── NotQuantizedError      the runtime fuses nothing into an integer kernel
    └── QualityDropError       the drop is larger than `--max-drop`
    BadInputError
    └── DescriptionError       the label or preprocessing description does not fit the model
    ConflictError
    └── OtherBundleError       another bundle is where this one should go
"""

from __future__ import annotations

from packhorse_host.errors import BadInputError, ConflictError, RefusedError


class NotQuantizedError(RefusedError):
    """The runtime fuses nothing into an integer kernel."""


class QualityDropError(RefusedError):
    """The quantized model is worse than the budget allows."""


class DescriptionError(BadInputError):
    """The label or preprocessing description does not fit the model."""


class OtherBundleError(ConflictError):
    """Another bundle is where this one should go."""
