"""Anything that becomes a PyTorch module: exported programs, Python files, weights with their class, ONNX."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .arrays import examples, save_vectors
from .onnx_graph import load_onnx
from .refusal import RefusedByTool


@dataclass(frozen=True)
class Source:
    """A module in evaluation mode with example inputs."""

    module: Any
    inputs: tuple[Any, ...]
    """Tensors."""
    names: tuple[str, ...]
    """Of the inputs."""
    program: Any
    """The `ExportedProgram` where that is what the source was, else None."""


def load(request: Mapping[str, Any]) -> Source:
    """The source that a request names.

    Raises:
        RefusedByTool: the file is not what the request says, or its inputs are not known.
    """
    import torch

    torch.manual_seed(0)
    if request["kind"] == "torch-exported":
        return _exported(request)
    module = _module(request)
    if not request["inputs"]:
        raise RefusedByTool("the inputs of a PyTorch module must be named: NAME:DATATYPE:LENGTHS for each")
    tensors = tuple(torch.from_numpy(array) for array in examples(request["inputs"]))
    return Source(module, tensors, tuple(spec["name"] for spec in request["inputs"]), None)


def save_reference(source: Source, path: str) -> list[str]:
    """Run the module on its example inputs and write both; the names that its outputs get."""
    import torch

    with torch.no_grad():
        answer = source.module(*source.inputs)
    outputs = flat(answer)
    names = [f"output_{index}" for index in range(len(outputs))]
    save_vectors(
        path,
        {name: tensor.numpy() for name, tensor in zip(source.names, source.inputs, strict=True)},
        {name: tensor.detach().numpy() for name, tensor in zip(names, outputs, strict=True)},
    )
    return names


def flat(answer: Any) -> list[Any]:
    """The tensors of a module's answer, in order.

    Raises:
        RefusedByTool: it holds something else.
    """
    import torch
    from torch.utils import _pytree

    leaves = _pytree.tree_leaves(answer)
    if not leaves or not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
        raise RefusedByTool("the module must return tensors only")
    return list(leaves)


def _exported(request: Mapping[str, Any]) -> Source:
    import torch
    from torch.ao.quantization.fx import _decomposed  # noqa: F401 (registers what quantized programs call)

    try:
        program = torch.export.load(request["path"])
    except Exception as error:  # a zip archive of whatever makes torch raise anything
        raise RefusedByTool(f"not a file of torch.export.save: {error}") from error
    arguments, keywords = program.example_inputs or ((), {})
    if keywords or not all(isinstance(value, torch.Tensor) for value in arguments):
        raise RefusedByTool("export the model with tensors as positional arguments only")
    if not arguments:
        raise RefusedByTool("the exported program holds no example inputs: save it from torch.export.export")
    names = request["inputs"] or [{"name": name} for name in program.graph_signature.user_inputs]
    if program.range_constraints:  # exported with free axes: one sample is what devices run
        arguments = [value[:1] if value.ndim else value for value in arguments]
    return Source(program.module(), tuple(arguments), tuple(spec["name"] for spec in names), program)


def _module(request: Mapping[str, Any]) -> Any:
    import torch

    kind, path = request["kind"], request["path"]
    if kind == "onnx":
        return load_onnx(path)
    if kind == "torch-pickle":
        module = _unpickled(path, request["reference"])
    else:
        module = _called(request["reference"])
    if not isinstance(module, torch.nn.Module):
        raise RefusedByTool(f"expected a torch.nn.Module, found {type(module).__name__}")
    if kind == "state-dict":
        _fill(module, path)
    return module.eval()


def _unpickled(path: str, reference: str | None) -> Any:
    """Arbitrary code runs here: only on the explicit request of the person who gave the file."""
    import torch

    if reference:
        _imported(reference)
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (AttributeError, ImportError) as error:
        raise RefusedByTool(
            f"the class of the pickle is not here, name it as FILE.py:NAME: {error}"
        ) from error


def _called(reference: str | None) -> Any:
    """What `FILE.py:NAME` gives: a module, or the result of calling it with nothing."""
    import torch

    found = _imported(reference or "")
    return found if isinstance(found, torch.nn.Module) else found()


def _imported(reference: str) -> Any:
    """What `FILE.py:NAME` names; the file can be imported by its own name from then on."""
    file, _, name = reference.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file) if file else None
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise RefusedByTool(f"`{reference}`: FILE.py:NAME of a class or function is expected")
    module = importlib.util.module_from_spec(spec)
    sys.modules[Path(file).stem] = module
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if found is None:
        raise RefusedByTool(f"{file} has no {name}")
    return found


def _fill(module: Any, path: str) -> None:
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise RefusedByTool(
            f"not a file of weights alone (it may hold whole Python objects, which are loaded only when "
            f"asked for): {str(error).splitlines()[0]}"
        ) from error
    weights = state.get("state_dict", state) if isinstance(state, dict) else state
    try:
        module.load_state_dict(weights)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise RefusedByTool(f"the weights are not those of the class: {error}") from error
