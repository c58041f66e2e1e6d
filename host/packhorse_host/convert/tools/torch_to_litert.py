"""PyTorch (and ONNX, through it) → `.tflite`, by litert-torch.

Request: `kind`, `path`, `reference`, `inputs`, `model` and `vectors` (files to write).
Answer: `inputs` and `outputs`, the names in the order of the signature's `args_N` and `output_N`.
"""

from __future__ import annotations

from typing import Any

from .refusal import RefusedByTool
from .torch_source import load, save_reference


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Convert; the model has the batch of its example inputs."""
    source = load(request)
    outputs = save_reference(source, request["vectors"])
    import litert_torch

    try:
        model = litert_torch.convert(source.module, source.inputs)
    except Exception as error:  # whatever a converter of graphs raises on a graph that it does not expect
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise RefusedByTool(f"litert-torch does not convert the model: {first[0][:500]}") from error
    model.export(request["model"])
    return {"inputs": list(source.names), "outputs": outputs}
