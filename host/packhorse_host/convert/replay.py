"""A model tried on a runtime that needs an environment of its own, through the device's own module."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

import packhorse_agent
from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.contract.profile import RuntimeName
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.convert.building import Progress
from packhorse_host.convert.environments import ENVIRONMENTS, EnvironmentName

HOMES: Final[Mapping[RuntimeName, EnvironmentName]] = MappingProxyType(
    {"executorch": "torch", "pytorch-mobile": "torch", "tflite-runtime": "tflite-runtime"}
)
"""Runtime → the tool environment that has it."""


def replay_on(
    runtime: RuntimeName,
    model: bytes,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    vectors: Mapping[str, Array],
    progress: Progress,
) -> dict[str, Array]:
    """What a runtime in `HOMES` answers to each vector; the first axis of all arrays counts vectors.

    Raises:
        ConversionFailedError: it does not load the model, or fails on a vector.
        ToolEnvironmentError, ToolFailedError: the environment cannot be built, or the tool died.
    """
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        folder = Path(scratch)
        (folder / "model").write_bytes(model)
        named: Any = vectors  # older numpy would take its newer options for arrays
        np.savez(folder / "vectors.npz", **named)
        request = {
            "agent": str(agent_folder()),
            "runtime": runtime,
            "model": str(folder / "model"),
            "vectors": str(folder / "vectors.npz"),
            "answers": str(folder / "answers.npz"),
            "inputs": [spec.model_dump(mode="json") for spec in inputs],
            "outputs": [spec.model_dump(mode="json") for spec in outputs],
        }
        ENVIRONMENTS[HOMES[runtime]].call("replay", request, progress)
        with np.load(folder / "answers.npz", allow_pickle=False) as answers:
            return dict(answers)


def agent_folder() -> Path:
    """Of packhorse_agent, which tools import by its path."""
    return Path(packhorse_agent.__file__).parent
