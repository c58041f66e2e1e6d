"""Exported programs on their way to a device: read, fed with calibration data, tried where they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .refusal import RefusedByTool
from .replay import run as replay
from .torch_source import flat

QUANTIZED = "quantized_decomposed"
"""Namespace of the operators that mark a quantized program."""


def load_program(path: str) -> Any:
    """The `ExportedProgram` that the converter wrote."""
    import torch
    from torch.ao.quantization.fx import _decomposed  # noqa: F401 (registers what quantized programs call)

    torch.manual_seed(0)
    return torch.export.load(path)


def is_quantized(program: Any) -> bool:
    """Whether somebody has quantized it already."""
    return any(getattr(node.target, "namespace", "") == QUANTIZED for node in program.graph.nodes)


def check_kind(program: Any, recipe: str) -> None:
    """Hold the program against what the recipe starts from.

    Raises:
        RefusedByTool: it is quantized already, or is not where it should be.
    """
    trained = recipe == "qat_wi8_ai8"
    if is_quantized(program) and not trained:
        raise RefusedByTool(
            "the model is quantized already and is never quantized twice: "
            "--recipe qat_wi8_ai8 packs it as it is; or start from the float model"
        )
    if trained and not is_quantized(program):
        raise RefusedByTool("recipe qat_wi8_ai8 takes a model that training has quantized; this one is float")


def calibration(folder: str, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """One sample at a time as tensors; the arrays stay on the disk."""
    import numpy
    import torch

    arrays = [numpy.load(Path(folder) / f"{index}.npy", mmap_mode="r") for index in range(len(names))]
    for at in range(len(arrays[0])):
        yield tuple(torch.from_numpy(numpy.array(array[at : at + 1])) for array in arrays)


def float_answers(program: Any, request: Mapping[str, Any]) -> None:
    """Write to `expected` what the program answers to the vectors in `probes`."""
    import numpy
    import torch

    names = [spec["name"] for spec in request["inputs"]]
    outputs = [spec["name"] for spec in request["outputs"]]
    module = program.module()
    rows = []
    with numpy.load(request["probes"], allow_pickle=False) as probes, torch.no_grad():
        vectors = [probes[name] for name in names]
        for at in range(len(vectors[0])):
            row = flat(module(*(torch.from_numpy(array[at : at + 1]) for array in vectors)))
            rows.append([tensor.numpy() for tensor in row])
    joined: Any = {name: numpy.concatenate([row[at] for row in rows]) for at, name in enumerate(outputs)}
    numpy.savez(request["expected"], **joined)


def device_answers(request: Mapping[str, Any], runtime: str) -> dict[str, Any]:
    """Write to `answers` what the emitted model answers to the same vectors on the device's own module."""
    return replay({**request, "runtime": runtime, "vectors": request["probes"]})


def float_nodes(graph: Any, wanted: Sequence[str]) -> frozenset[str]:
    """Names of nodes that stay in floating point.

    Raises:
        RefusedByTool: the graph has no such node.
    """
    missing = set(wanted) - {node.name for node in graph.nodes}
    if missing:
        raise RefusedByTool(
            "the recipe leaves nodes in floating point that this model does not have: "
            + ", ".join(sorted(missing)[:5])
        )
    return frozenset(wanted)


def attribute(module: Any, node: Any) -> Any:
    """The tensor that a `get_attr` node reads."""
    found = module
    for name in node.target.split("."):
        found = getattr(found, name)
    return found
