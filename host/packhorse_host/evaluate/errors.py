"""What evaluation raises, on top of the host's tree (see `packhorse_host.errors`).

::

    BadInputError
    ├── DataError             a data file is missing, damaged, empty or not finite
    │   └── DataMismatchError   its names, shapes or types are not those of the model
    ├── LabelsError           the truth is missing, or does not fit the samples or the model
    ├── OutputsError          a model's outputs do not suit the metric, or hold NaN
    └── OwnMetricError        an own metric or decoder cannot be loaded or does not keep to the protocol
"""

from __future__ import annotations

from packhorse_host.errors import BadInputError


class DataError(BadInputError):
    """A data file is missing, damaged, empty or holds numbers that are not finite."""


class DataMismatchError(DataError):
    """The data's names, shapes or types are not those of the model; the text has expected and found."""


class LabelsError(BadInputError):
    """The truth is missing, or does not fit the samples or the model."""


class OutputsError(BadInputError):
    """A model's outputs do not suit the metric, or hold numbers that nothing can be told from."""


class OwnMetricError(BadInputError):
    """A metric or decoder that is not ours cannot be loaded, or does not keep to the protocol."""
