"""Tensor datatypes of the Open Inference Protocol as numpy dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from packhorse_agent.contract.manifest import Datatype

Array: TypeAlias = npt.NDArray[Any]
Tensors: TypeAlias = Mapping[str, Array]
"""Tensor name → values."""

DTYPES: Final[Mapping[Datatype, np.dtype[Any]]] = MappingProxyType(
    {
        "BOOL": np.dtype(np.bool_),
        "UINT8": np.dtype(np.uint8),
        "UINT16": np.dtype(np.uint16),
        "UINT32": np.dtype(np.uint32),
        "UINT64": np.dtype(np.uint64),
        "INT8": np.dtype(np.int8),
        "INT16": np.dtype(np.int16),
        "INT32": np.dtype(np.int32),
        "INT64": np.dtype(np.int64),
        "FP16": np.dtype(np.float16),
        "FP32": np.dtype(np.float32),
        "FP64": np.dtype(np.float64),
    }
)
"""Datatype → dtype of the machine's own byte order."""

_DATATYPES: Final[Mapping[np.dtype[Any], Datatype]] = MappingProxyType(
    {dtype: datatype for datatype, dtype in DTYPES.items()}
)


def datatype_of(array: Array) -> Datatype | None:
    """The datatype of an array; None when the protocol has none for it. Inverse of `DTYPES`."""
    return _DATATYPES.get(array.dtype)
