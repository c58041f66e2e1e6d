"""What evaluation raises, on top of the host's tree (see `packhorse_host.errors`).

::

    BadInputError
    ├── DataError             a data file is missing, damaged, empty or not finite
    │   └── DataMismatchError   its names, shapes or types are not those of the model
    └── LabelsError           labels do not fit the samples or the model's classes
"""

from __future__ import annotations

from packhorse_host.errors import BadInputError


class DataError(BadInputError):
    """A data file is missing, damaged, empty or holds numbers that are not finite."""


class DataMismatchError(DataError):
    """The data's names, shapes or types are not those of the model; the text has expected and found."""


class LabelsError(BadInputError):
    """Labels do not fit the samples or the model's classes."""
