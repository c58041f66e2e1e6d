"""What quantization raises, on top of the host's tree (see `packhorse_host.errors`).

::

    BadInputError
    ├── ModelError                    not an ONNX model, damaged, or of a kind that cannot be packed
    │   └── UnsupportedOperatorError  holds operators that the runtime does not know
    ├── ActivationError               the float model makes NaN or infinity of the calibration data
    └── UnservedProfileError          no runtime of the profile can be packed for
    ConfigError
    ├── UnknownRecipeError            no recipe has this name
    ├── UnsupportedRecipeError        the runtime cannot have this recipe, or not with these options
    └── CalibrationNeededError        the recipe fixes activation ranges and there is no data to fix them with
    RefusedError
    └── UselessQuantizationError      no smaller, not quantized, or constant or not finite in its outputs
"""

from __future__ import annotations

from packhorse_host.errors import BadInputError, ConfigError, RefusedError


class ModelError(BadInputError):
    """The model file is not one that can be packed."""


class UnsupportedOperatorError(ModelError):
    """The model holds operators that the runtime does not know."""


class ActivationError(BadInputError):
    """The float model makes NaN or infinity of the calibration data."""


class UnservedProfileError(BadInputError):
    """None of the profile's runtimes can be packed for."""


class UnknownRecipeError(ConfigError):
    """No recipe has this name."""


class UnsupportedRecipeError(ConfigError):
    """The runtime cannot have this recipe, or not with these options; the text says why."""


class CalibrationNeededError(ConfigError):
    """The recipe needs calibration data and none was given."""


class UselessQuantizationError(RefusedError):
    """What a quantizer made is no smaller, not quantized, or gives constant or non-finite outputs."""
