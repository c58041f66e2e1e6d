"""Small models for ExecuTorch and PyTorch Mobile, made on the spot; torch must be importable."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.agent.models import FEATURES, WEIGHTS


class Linear(torch.nn.Module):
    """`scores = x @ WEIGHTS`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(*WEIGHTS.shape, bias=False)
        self.layer.weight.data = torch.from_numpy(WEIGHTS.T.copy())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of x, [1, FEATURES]."""
        answer: torch.Tensor = self.layer(x)
        return answer


class Difference(torch.nn.Module):
    """Two inputs whose order counts, and two outputs."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """a - b and b - a, both [1, 2]."""
        return a - b, b - a


X = torch.zeros(1, FEATURES)
PAIR = (torch.zeros(1, 2), torch.zeros(1, 2))


def write_pte(path: Path, module: torch.nn.Module, inputs: tuple[Any, ...], *, xnnpack: bool = True) -> Path:
    """Lower a module to a `.pte` file."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(module.eval(), inputs)
    parts = [XnnpackPartitioner()] if xnnpack else []
    with contextlib.redirect_stdout(io.StringIO()):
        path.write_bytes(to_edge_transform_and_lower(program, partitioner=parts).to_executorch().buffer)
    return path


def write_ptl(
    path: Path, module: torch.nn.Module, inputs: tuple[Any, ...], description: Mapping[str, Any] | None
) -> Path:
    """Save a module for the lite interpreter, with the description of its tensors."""
    extra = {} if description is None else {"packhorse.json": json.dumps(description).encode()}
    traced: Any = torch.jit.trace(module.eval(), inputs)
    traced._save_for_lite_interpreter(str(path), _extra_files=extra)
    return path
