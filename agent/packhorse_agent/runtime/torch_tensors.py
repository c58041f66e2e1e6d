"""What ExecuTorch and PyTorch Mobile have in common: positional torch tensors behind named arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch

from packhorse_agent.contract.manifest import RuntimeRequirement, TensorSpec
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_agent.runtime.errors import InferenceFailedError, InputRefusedError
from packhorse_agent.runtime.inputs import check_fits


def to_positional(specs: Sequence[TensorSpec], inputs: Tensors) -> list[torch.Tensor]:
    """Tensors in the order of `specs`; they share memory with the arrays where they can.

    Raises:
        InputRefusedError: other names, datatypes or ranks, or a length that is fixed and differs.
    """
    if inputs.keys() != {spec.name for spec in specs}:
        wanted = ", ".join(spec.name for spec in specs) or "nothing"
        raise InputRefusedError(f"the model takes {wanted}, got {', '.join(inputs) or 'nothing'}")
    for spec in specs:
        check_fits(spec, inputs[spec.name])
    # torch takes no array that it could not write to
    return [torch.from_numpy(np.require(inputs[spec.name], requirements=["C", "W"])) for spec in specs]


def to_named(specs: Sequence[TensorSpec], outputs: Sequence[object]) -> dict[str, Array]:
    """Output name → array, by order.

    Raises:
        InferenceFailedError: the model gave another number of outputs, or something that is no tensor.
    """
    if len(outputs) != len(specs) or not all(isinstance(value, torch.Tensor) for value in outputs):
        raise InferenceFailedError(f"the model gave {len(outputs)} values, {len(specs)} tensors are expected")
    tensors = [value for value in outputs if isinstance(value, torch.Tensor)]
    return {spec.name: tensor.detach().numpy() for spec, tensor in zip(specs, tensors, strict=True)}


def threads_for(requirement: RuntimeRequirement) -> int:
    """Threads to run on: as many as are asked for and no more than there are cores."""
    return min(requirement.threads, len(os.sched_getaffinity(0)))


def first_line(error: BaseException) -> str:
    """The first line of what a library says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
