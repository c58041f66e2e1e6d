"""A model tried on tflite-runtime, in its own environment, through the device's own module."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import packhorse_agent
from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.convert.building import Progress
from packhorse_host.convert.environments import ENVIRONMENTS


def replay_on_tflite_runtime(
    model: bytes,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    vectors: Mapping[str, Array],
    progress: Progress,
) -> dict[str, Array]:
    """What tflite-runtime 2.14 answers to each vector; the first axis of all arrays counts vectors.

    Raises:
        ConversionFailedError: it does not load the model, or fails on a vector.
        ToolEnvironmentError, ToolFailedError: the environment cannot be built, or the tool died.
    """
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        folder = Path(scratch)
        (folder / "model.tflite").write_bytes(model)
        named: Any = vectors  # older numpy would take its newer options for arrays
        np.savez(folder / "vectors.npz", **named)
        request = {
            "agent": str(Path(packhorse_agent.__file__).parent),
            "model": str(folder / "model.tflite"),
            "vectors": str(folder / "vectors.npz"),
            "answers": str(folder / "answers.npz"),
            "inputs": [spec.model_dump(mode="json") for spec in inputs],
            "outputs": [spec.model_dump(mode="json") for spec in outputs],
        }
        ENVIRONMENTS["tflite-runtime"].call("replay", request, progress)
        with np.load(folder / "answers.npz", allow_pickle=False) as answers:
            return dict(answers)
