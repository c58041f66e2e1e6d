"""A model opened the way a device opens it, and run over data sets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from packhorse_agent.contract.manifest import RuntimeRequirement, TensorSpec
from packhorse_agent.runtime.base import Session, open_model
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.errors import DataMismatchError
from packhorse_host.evaluate.samples import Samples
from packhorse_host.evaluate.stand_in import runs_here


def open_session(
    model: bytes,
    requirement: RuntimeRequirement,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> Session:
    """Open a serialized model with the device's own runtime module, on the CPU; see `stand_in` for others.

    Raises:
        RuntimeMissingError: the runtime is not installed, or too old.
        ModelLoadError: the runtime does not take the model, or its tensors are not those named.
    """
    with tempfile.TemporaryDirectory(prefix="packhorse-") as folder:
        path = Path(folder) / "model"
        path.write_bytes(model)
        return open_model(path, runs_here(requirement), inputs, outputs)


def run_all(session: Session, samples: Samples, batch: int, outputs: Sequence[str]) -> dict[str, Array]:
    """Run every sample, `batch` at a time; arrays for the named outputs, the first axis counting samples.

    Raises:
        InputRefusedError: the model does not take the data.
        DataMismatchError: an output does not count samples.
    """
    parts = [part for (part,) in run_batches([session], samples, batch, outputs)]
    return {name: np.concatenate([part[name] for part in parts]) for name in outputs}


def run_batches(
    sessions: Sequence[Session], samples: Samples, batch: int, outputs: Sequence[str]
) -> Iterator[list[dict[str, Array]]]:
    """Run every model on the same samples, `batch` at a time; the last batch has as many as are left.

    Raises:
        InputRefusedError: a model does not take the data.
        DataMismatchError: an output does not count samples.
    """
    for index, feed in enumerate(samples.batches(batch)):
        left = samples.count - index * batch
        answers = (session.run(feed) for session in sessions)
        yield [{name: _checked(name, answer[name], batch)[:left] for name in outputs} for answer in answers]


def _checked(name: str, array: Array, batch: int) -> Array:
    if array.shape[:1] != (batch,):
        raise DataMismatchError(
            f"output `{name}` has shape {list(array.shape)} for {batch} samples; "
            "its first axis must count samples"
        )
    return array
