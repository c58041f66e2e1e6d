"""Integers that a model can take: tokens of its vocabulary, masks, kinds."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from packhorse_agent.runtime.datatypes import Array
from packhorse_host.quantize.transform.layers import GraphView

_PASSING: Final = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_MASK: Final = "mask"


def table_rows(view: GraphView, tensor: str) -> int | None:
    """Rows of the smallest table that a tensor picks rows from; None where it picks none."""
    found = [rows for node in view.consumers.get(tensor, []) if (rows := _rows(view, node, tensor))]
    return min(found) if found else None


def integers(
    stream: np.random.Generator, name: str, rows: int | None, shape: tuple[int, ...], dtype: Any
) -> Array:
    """Whole numbers for the input `name`: tokens below `rows`, a mask that hides nothing, else 0 or 1."""
    if rows is None and _MASK in name.lower():
        return np.ones(shape, dtype)
    return stream.integers(0, rows or 2, shape).astype(dtype)


def _rows(view: GraphView, node: Any, tensor: str) -> int | None:
    if node.op_type == "Gather" and node.input[1] == tensor and node.input[0] in view.constants:
        return int(view.constants[node.input[0]].dims[0])
    return table_rows(view, node.output[0]) if node.op_type in _PASSING else None
