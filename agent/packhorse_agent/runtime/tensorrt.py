"""TensorRT behind the runtime protocol: ONNX models, of which an engine is built on the device.

The first start of a model builds its engine, which takes seconds to many minutes; the engine is kept (see
`engine_cache`), and later starts only load it. What the model leaves free is the first axis, the batch: more
samples than the engine takes at once are taken in parts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.manifest import RuntimeRequirement
from packhorse_agent.errors import EnvironmentFaultError
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_agent.runtime.engine_cache import BuildOptions, EngineCache, EngineKey, default_folder
from packhorse_agent.runtime.errors import InputRefusedError, ModelLoadError, RuntimeMissingError
from packhorse_agent.runtime.inputs import check_fits
from packhorse_agent.runtime.tensorrt_binding import Engine, TensorRt, open_tensorrt

GPU: Final = "GPU"


class TensorRtSession:
    """A model in an engine; see `Session`."""

    provider = GPU

    def __init__(self, engine: Engine, batch_max: int, notes: tuple[str, ...]) -> None:
        self._engine = engine
        self._batch_max = batch_max
        self.inputs = engine.inputs
        self.outputs = engine.outputs
        self.notes = notes

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """One inference; see `Session.run`."""
        batch = self._batch(inputs)
        if batch is None or batch <= self._batch_max:
            return self._engine.run(inputs)
        if any(spec.shape[:1] != (-1,) for spec in self.outputs):
            raise InputRefusedError(f"the engine takes {self._batch_max} samples at once, got {batch}")
        starts = range(0, batch, self._batch_max)
        parts = [self._engine.run(self._part(inputs, start)) for start in starts]
        return {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in self.outputs}

    def _part(self, inputs: Tensors, start: int) -> Mapping[str, Array]:
        free = {spec.name for spec in self.inputs if spec.shape[:1] == (-1,)}
        stop = start + self._batch_max
        return {name: array[start:stop] if name in free else array for name, array in inputs.items()}

    def _batch(self, inputs: Tensors) -> int | None:
        """Samples in the inputs; None where the model's first axes are fixed.

        Raises:
            InputRefusedError: other names, datatypes or shapes, no sample, or not as many everywhere.
        """
        if inputs.keys() != {spec.name for spec in self.inputs}:
            wanted = ", ".join(spec.name for spec in self.inputs)
            raise InputRefusedError(f"the model takes {wanted}, got {', '.join(inputs) or 'nothing'}")
        for spec in self.inputs:
            check_fits(spec, inputs[spec.name])
        lengths = {len(inputs[spec.name]) for spec in self.inputs if spec.shape[:1] == (-1,)}
        if len(lengths) > 1 or 0 in lengths:
            raise InputRefusedError(f"one batch is expected, got {sorted(lengths)} samples")
        return next(iter(lengths), None)


def open_session(path: Path, requirement: RuntimeRequirement) -> TensorRtSession:
    """Load an ONNX file, building its engine where none is kept; see `Runtime.open_session`.

    Raises:
        ModelLoadError: TensorRT does not take the file.
        RuntimeMissingError: TensorRT, the NVIDIA driver or the GPU is not here.
    """
    if requirement.providers and GPU not in requirement.providers:
        raise RuntimeMissingError(
            f"the bundle needs {', '.join(requirement.providers)}; "
            f"packhorse runs TensorRT on the {GPU} only: pack it for that"
        )
    return open_with(open_tensorrt(), EngineCache(default_folder()), path)


def open_with(
    tensorrt: TensorRt, cache: EngineCache, path: Path, options: BuildOptions | None = None
) -> TensorRtSession:
    """As `open_session`, with a library and a cache of one's own.

    Raises:
        ModelLoadError: TensorRT does not take the file.
    """
    options = options or BuildOptions()
    try:
        model = path.read_bytes()
    except OSError as error:
        raise ModelLoadError(f"TensorRT does not load the model: {error}") from error
    key = EngineKey(tensorrt.gpu, tensorrt.version, sha256_hex(model), options)
    with cache.held():
        kept = cache.engine(key)
        engine = tensorrt.load(kept) if kept is not None else None
        if engine is not None:
            return TensorRtSession(engine, options.batch_max, ())
        return _built(tensorrt, cache, key, model)


def _built(tensorrt: TensorRt, cache: EngineCache, key: EngineKey, model: bytes) -> TensorRtSession:
    begun_s = time.monotonic()
    cache.forget(key)
    built = tensorrt.build(model, key.options, cache.timing(key))
    notes = [f"the engine was built in {time.monotonic() - begun_s:.0f} s for {key.gpu.name}"]
    try:
        cache.keep_timing(key, built.timing)
        cache.keep(key, built.engine)
    except EnvironmentFaultError as error:
        notes.append(f"the engine is built again at the next start: it cannot be kept ({error})")
    engine = tensorrt.load(built.engine)
    if engine is None:
        raise ModelLoadError("TensorRT does not load the engine that it has just built; its log says why")
    return TensorRtSession(engine, key.options.batch_max, tuple(notes))
