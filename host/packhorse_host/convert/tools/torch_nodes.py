"""Names of the nodes of an exported program that multiply and accumulate.

Request: `program`. Answer: `nodes`.
"""

from __future__ import annotations

from typing import Any

from .torch_program import load_program

_COMPUTE = frozenset(
    {"addmm", "bmm", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "matmul", "mm"}
)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """List them in the order of the program."""
    graph = load_program(request["program"]).graph
    packets = ((node.name, getattr(node.target, "overloadpacket", None)) for node in graph.nodes)
    return {"nodes": [name for name, packet in packets if getattr(packet, "__name__", "") in _COMPUTE]}
