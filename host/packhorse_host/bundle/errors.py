"""What packing raises, on top of the host's tree (see `packhorse_host.errors`).

::

    RefusedError
    ├── NotQuantizedError      the runtime fuses nothing into an integer kernel
    ├── QualityDropError       the drop is larger than `--max-drop`
    ├── GrownError             the quantized file is larger than the float one
    ├── BrokenOutputsError     outputs are constant, NaN or infinite
    └── DataFreeError          calibrated without data, and too far from the float model
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


class GrownError(RefusedError):
    """The quantized file is larger than the float one."""


class BrokenOutputsError(RefusedError):
    """The quantized model's outputs are constant, NaN or infinite."""


class DataFreeError(RefusedError):
    """A model that was calibrated without data is too far from the float one."""


class DescriptionError(BadInputError):
    """The label or preprocessing description does not fit the model."""


class OtherBundleError(ConflictError):
    """Another bundle is where this one should go."""
