"""Outputs that are of no use. Pure: arrays in, names out."""

from __future__ import annotations

import numpy as np

from packhorse_agent.runtime.datatypes import Array, Tensors


def outputs_not_finite(outputs: Tensors) -> tuple[str, ...]:
    """Names of outputs that hold NaN or infinity."""
    return tuple(name for name, array in outputs.items() if not np.isfinite(array).all())


def constant_outputs(fp32: Tensors, quantized: Tensors) -> tuple[str, ...]:
    """Names of outputs that are the same for every sample, although FP32's are not.

    Args:
        fp32: the float model's, the first axis counting samples.
        quantized: the quantized model's.
    """
    return tuple(name for name, array in quantized.items() if _constant(array) and not _constant(fp32[name]))


def _constant(array: Array) -> bool:
    return bool((array == array[:1]).all())
