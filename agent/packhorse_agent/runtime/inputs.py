"""What a runtime that does not look for itself must see of an input before it runs."""

from __future__ import annotations

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import DTYPES, Array
from packhorse_agent.runtime.errors import InputRefusedError


def check_fits(spec: TensorSpec, array: Array) -> None:
    """See that an array has the datatype, the rank and the fixed lengths of a tensor.

    Raises:
        InputRefusedError: it has not; the text says what is taken and what came.
    """
    fits = array.ndim == len(spec.shape) and all(
        axis in (-1, length) for axis, length in zip(spec.shape, array.shape, strict=True)
    )
    if not fits or array.dtype != DTYPES[spec.datatype]:
        raise InputRefusedError(
            f"the runtime refuses the input: {spec.name} takes {spec.datatype} {list(spec.shape)}, "
            f"got {array.dtype} {list(array.shape)}"
        )
