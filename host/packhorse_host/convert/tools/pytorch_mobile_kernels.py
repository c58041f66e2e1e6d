"""Operators of a `.ptl` file, by the TorchScript that it also holds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

_INTEGER = frozenset(
    f"quantized::{name}"
    for name in (
        "conv1d", "conv1d_relu", "conv2d", "conv2d_relu", "linear", "linear_dynamic", "linear_relu",
        "linear_relu_dynamic",
    )
)  # fmt: skip
_FLOAT = frozenset(
    f"aten::{name}"
    for name in (
        "_convolution",
        "addmm",
        "baddbmm",
        "bmm",
        "conv1d",
        "conv2d",
        "conv3d",
        "linear",
        "matmul",
        "mm",
    )
)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Count the operators of the file `model`."""
    return count_kernels(Path(request["model"]).read_bytes())


def count_kernels(data: bytes) -> dict[str, int]:
    """`compute`: operators that multiply and accumulate; `integer`: those in integers."""
    import torch

    graph = torch.jit.load(io.BytesIO(data)).inlined_graph
    kinds = [node.kind() for node in graph.nodes()]
    integer = sum(kind in _INTEGER for kind in kinds)
    return {"integer": integer, "compute": integer + sum(kind in _FLOAT for kind in kinds)}
