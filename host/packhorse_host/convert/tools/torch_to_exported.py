"""PyTorch (and ONNX, through it) → an exported program of fixed shapes, where quantizers for torch start.

Request: `kind`, `path`, `reference`, `inputs`, `model` and `vectors` (files to write).
Answer: `inputs` and `outputs`, tensors as a manifest describes them. `vectors` gets the inputs, what the
source answers to them and, under `exported/`, what the program does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .arrays import INPUT, OUTPUT
from .refusal import RefusedByTool
from .torch_source import flat, load

EXPORTED = "exported/"


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Export; the program has the batch of its example inputs."""
    import numpy
    import torch

    source = load(request)
    try:
        program = torch.export.export(source.module, source.inputs)
    except Exception as error:  # whatever an exporter raises on a module that it cannot trace
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise RefusedByTool(f"torch.export does not take the model: {first[0][:500]}") from error
    with torch.no_grad():
        expected = flat(source.module(*source.inputs))
        answers = flat(program.module()(*source.inputs))
    torch.export.save(program, request["model"])
    arrays = {
        f"{INPUT}{name}": tensor.numpy() for name, tensor in zip(source.names, source.inputs, strict=True)
    }
    arrays |= _numbered(OUTPUT, expected) | _numbered(EXPORTED, answers)
    numpy.savez(request["vectors"], **arrays)
    names = [f"output_{index}" for index in range(len(answers))]
    return {"inputs": _described(source.names, source.inputs), "outputs": _described(names, answers)}


def _numbered(prefix: str, tensors: Sequence[Any]) -> dict[str, Any]:
    return {f"{prefix}output_{index}": tensor.detach().numpy() for index, tensor in enumerate(tensors)}


def _described(names: Sequence[str], tensors: Sequence[Any]) -> list[Mapping[str, Any]]:
    from .arrays import DATATYPES

    return [
        {
            "name": name,
            "datatype": DATATYPES[str(tensor.numpy(force=True).dtype)],
            "shape": list(tensor.shape),
        }
        for name, tensor in zip(names, tensors, strict=True)
    ]
