"""PyTorch → ONNX, by torch.onnx.

Request: `kind`, `path`, `reference`, `inputs`, `model` and `vectors` (files to write).
Answer: `inputs` and `outputs`, the names of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .refusal import RefusedByTool
from .torch_source import Source, load, save_reference

OPSET = 18
"""The oldest that torch.onnx writes without a lossy step back."""


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Convert; an axis of length -1 in `inputs` stays free."""
    source = load(request)
    outputs = save_reference(source, request["vectors"])
    import torch

    try:
        torch.onnx.export(
            source.program or source.module,
            () if source.program else source.inputs,
            request["model"],
            input_names=list(source.names),
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=None if source.program else _free_axes(source, request["inputs"]),
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # whatever an exporter raises on a module that it cannot trace
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise RefusedByTool(f"torch.onnx does not export the model: {first[0][:500]}") from error
    return {"inputs": list(source.names), "outputs": outputs}


def _free_axes(source: Source, specs: list[Mapping[str, Any]]) -> Any:
    """Axis → a name, for each input; inputs with a free first axis share the batch."""
    from torch.export import Dim

    return tuple(
        {axis: Dim.AUTO for axis, length in enumerate(spec["shape"]) if length < 0}
        for _, spec in zip(source.inputs, specs, strict=True)
    )
