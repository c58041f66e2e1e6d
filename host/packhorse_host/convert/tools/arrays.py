"""Inputs to try a model on, and the arrays that go back to the host with what the source answers to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

INPUT, OUTPUT = "input/", "output/"
"""Prefixes of the names in the `.npz` file."""

_DTYPES = {
    "BOOL": "bool", "UINT8": "uint8", "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip

DATATYPES: dict[str, str] = {dtype: datatype for datatype, dtype in _DTYPES.items()}
"""Name of a numpy dtype → datatype."""


def example(spec: Mapping[str, Any], seed: int = 0) -> Any:
    """A numpy array for an input: standard normal, or 0 and 1; an axis of any length is 1 long."""
    import numpy

    stream = numpy.random.default_rng(seed)
    shape = [1 if length < 0 else length for length in spec["shape"]]
    dtype = numpy.dtype(_DTYPES[spec["datatype"]])
    drawn = stream.standard_normal(shape) if dtype.kind == "f" else stream.integers(0, 2, shape)
    return drawn.astype(dtype)


def examples(specs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """One array for each input."""
    return [example(spec, seed) for seed, spec in enumerate(specs)]


def save_vectors(path: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """Write what the source model answers, for the host to compare with."""
    import numpy

    arrays = {f"{INPUT}{name}": array for name, array in inputs.items()}
    arrays |= {f"{OUTPUT}{name}": array for name, array in outputs.items()}
    numpy.savez(path, **arrays)
