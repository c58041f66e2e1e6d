"""Kernels of a `.pte` file: those of its own plan, and those inside the payloads for XNNPACK.

Sources: schema/program.fbs of ExecuTorch, backends/xnnpack/serialization/schema.fbs, both read with the tools
that come with the package.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_PORTABLE = frozenset({"aten::addmm", "aten::bmm", "aten::convolution", "aten::linear", "aten::mm"})
_XNNPACK = frozenset(
    {"XNNBatchMatrixMultiply", "XNNConv2d", "XNNConvTranspose2d", "XNNDepthwiseConv2d", "XNNFullyConnected"}
)
_INTEGER = re.compile(r"xnn_datatype_q(u|c|d|b|p)*int(4|8)")
_NOT_JSON = re.compile(r": [-+]?(?:inf|nan)\b")


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Count the kernels of the file `model`."""
    return count_kernels(Path(request["model"]).read_bytes())


def count_kernels(data: bytes) -> dict[str, int]:
    """`compute`: kernels that multiply and accumulate; `integer`: those whose operands are integers."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    program = deserialize_pte_binary(data).program
    integer = compute = 0
    for plan in program.execution_plan:
        compute += sum(name in _PORTABLE for name in _called(plan))
        for delegate in plan.delegates:
            if delegate.id == "XnnpackBackend":
                payload = bytes(program.backend_delegate_data[delegate.processed.index].data)
                kinds = list(_operands(_graph(payload)))
                compute += len(kinds)
                integer += sum(all(_INTEGER.fullmatch(kind) for kind in pair) for pair in kinds)
    return {"integer": integer, "compute": compute}


def _called(plan: Any) -> Iterator[str]:
    for chain in plan.chains:
        for instruction in chain.instructions:
            index = getattr(instruction.instr_args, "op_index", None)
            if index is not None:
                yield plan.operators[index].name


def _operands(graph: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Datatypes of activation and weight of each node that computes."""
    kinds = {}
    for value in graph["xvalues"]:
        union = value["xvalue_union"]
        tensor = union.get("tensor_value", union)
        kinds[tensor["id_out"]] = tensor["datatype"]
    for node in graph["xnodes"]:
        if node["xnode_union_type"] in _XNNPACK:
            union = node["xnode_union"]
            yield kinds[union["input1_id"]], kinds[union.get("filter_id", union.get("input2_id"))]


def _graph(payload: bytes) -> Mapping[str, Any]:
    from importlib import resources

    from executorch.backends.xnnpack import serialization
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    start, size = header.flatbuffer_offset, header.flatbuffer_size
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        folder = Path(scratch)
        schema = resources.files(serialization).joinpath("schema.fbs").read_bytes()
        (folder / "schema.fbs").write_bytes(schema)
        (folder / "graph.bin").write_bytes(payload[start : start + size])
        _flatc_decompile(scratch, str(folder / "schema.fbs"), str(folder / "graph.bin"))
        found: Mapping[str, Any] = json.loads(_NOT_JSON.sub(": null", (folder / "graph.json").read_text()))
    return found
