"""What packhorse needs of TensorRT: building an engine from an ONNX model, and running it.

Written for TensorRT 10.3 (JetPack 6, Python 3.10) to 11.4: every call is in both. Networks are strongly
typed, so that the types of the ONNX graph are those of the engine; 10 has to be told, 11 knows nothing else.
Source: NVIDIA, "TensorRT Python API", docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api.
"""

from __future__ import annotations

import importlib
import logging
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from packhorse_agent.contract.manifest import Datatype, TensorSpec
from packhorse_agent.runtime.cuda_driver import Cuda, CudaError, Gpu, open_cuda
from packhorse_agent.runtime.datatypes import DTYPES, Array, Tensors
from packhorse_agent.runtime.engine_cache import BuildOptions
from packhorse_agent.runtime.errors import InferenceFailedError, ModelLoadError, RuntimeMissingError
from packhorse_agent.runtime.installed import HOW_TO_INSTALL

_DATATYPES: Final[Mapping[str, Datatype]] = MappingProxyType(
    {
        "BOOL": "BOOL",
        "UINT8": "UINT8",
        "INT8": "INT8",
        "INT32": "INT32",
        "INT64": "INT64",
        "HALF": "FP16",
        "FLOAT": "FP32",
    }
)
"""TensorRT's names of types → those of the Open Inference Protocol."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """A new engine, and all that was ever timed for this GPU."""

    engine: bytes
    timing: bytes


class TensorRt:
    """The library on one GPU."""

    def __init__(self, library: Any, cuda: Cuda) -> None:
        self._trt = library
        self._cuda = cuda
        self._messages = _logger(library)
        self._runtime = library.Runtime(self._messages)

    @property
    def version(self) -> str:
        """Of TensorRT: engines of another one are of no use."""
        return str(self._trt.__version__)

    @property
    def gpu(self) -> Gpu:
        """What engines are built for."""
        return self._cuda.gpu

    def build(self, model: bytes, options: BuildOptions, timing: bytes) -> Built:
        """Build an engine, which may take minutes.

        Args:
            model: a serialized ONNX model with its weights.
            timing: what was timed before, may be empty or of no use any more.

        Raises:
            ModelLoadError: TensorRT does not take the model; the text has its words.
        """
        trt = self._trt
        self._messages.forget()
        builder = self._made(trt.Builder(self._messages), "starts no builder")
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._messages)
        if not parser.parse(model):
            errors = [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
            raise ModelLoadError(
                f"TensorRT does not take the model: {'; '.join(errors[:3]) or 'no reason given'}"
            )
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        if not options.tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        self._set_timing(config, timing)
        self._set_profile(builder, network, config, options.batch_max)
        engine = self._made(
            builder.build_serialized_network(network, config), "builds no engine of the model"
        )
        return Built(bytes(engine), _timed(config))

    def load(self, engine: bytes) -> Engine | None:
        """An engine ready to run; None where TensorRT does not take it, as after an update of the driver.

        Raises:
            ModelLoadError: a tensor has a type that the inference protocol cannot carry, or the GPU's memory
                does not suffice.
        """
        self._messages.forget()
        loaded = self._runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            return None
        context = self._made(loaded.create_execution_context(), "finds no memory to run the model")
        return Engine(self._trt, loaded, context, self._cuda, self._messages.last)

    def _made(self, thing: Any, what: str) -> Any:
        if thing is None:
            raise ModelLoadError(f"TensorRT {what}: {self._messages.last()}")
        return thing

    def _set_timing(self, config: Any, timing: bytes) -> None:
        cache = config.create_timing_cache(timing)
        # One of another version or GPU is not taken, and a build without is only slower.
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            empty = config.create_timing_cache(b"")
            if empty is not None:
                config.set_timing_cache(empty, ignore_mismatch=False)

    def _set_profile(self, builder: Any, network: Any, config: Any, batch_max: int) -> None:
        """Say how long free axes get: the first of them is the batch, and there may be no other."""
        free = {}
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            shape = tuple(int(length) for length in tensor.shape)
            if -1 in shape[1:]:
                raise ModelLoadError(
                    f"input {tensor.name} has shape {list(shape)}: an engine is built for fixed lengths of "
                    "all axes but the first; fix them when the model is packed"
                )
            if shape[:1] == (-1,):
                free[tensor.name] = shape[1:]
        if free:
            profile = builder.create_optimization_profile()
            for name, rest in free.items():
                profile.set_shape(name, (1, *rest), (1, *rest), (batch_max, *rest))
            if config.add_optimization_profile(profile) < 0:
                raise ModelLoadError(f"TensorRT does not take these lengths: {self._messages.last()}")


class Engine:
    """An engine with the memory that it needs; used by one thread at a time."""

    def __init__(
        self, library: Any, engine: Any, context: Any, cuda: Cuda, last_words: Callable[[], str]
    ) -> None:
        self._engine = engine  # the context needs it to live
        self._context = context
        self._cuda = cuda
        self._last_words = last_words
        self._stream = cuda.create_stream()
        self._buffers: dict[str, _Buffer] = {}
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        given = [name for name in names if engine.get_tensor_mode(name) == library.TensorIOMode.INPUT]
        self.inputs = tuple(_spec(engine, name) for name in given)
        self.outputs = tuple(_spec(engine, name) for name in names if name not in given)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """One inference on arrays of the names, types and shapes that the engine takes.

        Raises:
            InferenceFailedError: TensorRT or the GPU failed.
        """
        try:
            self._cuda.enter()
            # Copies read these until the stream is through.
            held = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
            for name, array in held.items():
                address = self._address(name, array.nbytes)
                self._cuda.to_device(address, array, self._stream)
                self._check(self._context.set_input_shape(name, array.shape), f"refuses the shape of {name}")
            outputs = {spec.name: self._room(spec) for spec in self.outputs}
            self._check(self._context.execute_async_v3(self._stream), "does not run")
            for name, array in outputs.items():
                self._cuda.to_host(array, self._buffers[name].address, self._stream)
            self._cuda.synchronize(self._stream)
        except CudaError as error:
            raise InferenceFailedError(f"the GPU failed: {error}") from error
        return outputs

    def _room(self, spec: TensorSpec) -> Array:
        shape = tuple(int(length) for length in self._context.get_tensor_shape(spec.name))
        self._check(min(shape, default=0) >= 0, f"does not tell the shape of {spec.name} beforehand")
        array: Array = np.empty(shape, DTYPES[spec.datatype])
        self._address(spec.name, array.nbytes)
        return array

    def _address(self, name: str, size_bytes: int) -> int:
        """Memory on the GPU for a tensor, known to the context."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size_bytes < size_bytes:
            self._buffers.pop(name, None)
            buffer = self._buffers[name] = _Buffer(self._cuda, size_bytes)
            self._check(self._context.set_tensor_address(name, buffer.address), f"refuses memory for {name}")
        return buffer.address

    def _check(self, well: bool, what: str) -> None:
        if not well:
            raise InferenceFailedError(f"TensorRT {what}: {self._last_words()}")


class _Buffer:
    """Memory on the GPU that is given back with this object."""

    def __init__(self, cuda: Cuda, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.address = cuda.allocate(size_bytes)
        weakref.finalize(self, cuda.free, self.address)


def open_tensorrt() -> TensorRt:
    """TensorRT on the first GPU of this machine.

    Raises:
        RuntimeMissingError: a library or the GPU is not here; the text says what to install.
        CudaError: the driver fails.
    """
    return TensorRt(import_tensorrt(), open_cuda())


def import_tensorrt(load: Callable[[str], Any] = importlib.import_module) -> Any:
    """The module `tensorrt`, with a builder in it.

    Raises:
        RuntimeMissingError: it does not import, or is one that only runs engines.
    """
    try:
        library = load("tensorrt")
    except (ImportError, OSError) as error:
        raise RuntimeMissingError(
            f"TensorRT does not load ({error}): {HOW_TO_INSTALL['tensorrt']}"
        ) from error
    if not (hasattr(library, "Builder") and hasattr(library, "OnnxParser")):
        raise RuntimeMissingError(
            f"this TensorRT only runs engines and cannot build one: {HOW_TO_INSTALL['tensorrt']}"
        )
    return library


def _spec(engine: Any, name: str) -> TensorSpec:
    kind = engine.get_tensor_dtype(name).name
    datatype = _DATATYPES.get(kind)
    if datatype is None:
        raise ModelLoadError(f"tensor {name} is {kind}, which the inference protocol cannot carry")
    shape = tuple(int(length) for length in engine.get_tensor_shape(name))
    return TensorSpec(name=name, datatype=datatype, shape=shape)


def _timed(config: Any) -> bytes:
    cache = config.get_timing_cache()
    return b"" if cache is None else bytes(cache.serialize())


def _logger(trt: Any) -> Any:
    """A logger for TensorRT that keeps the last error."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._last = ""

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT, from any thread."""
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self._last = message
                _log.error("TensorRT: %s", message)
            elif severity == trt.ILogger.Severity.WARNING:
                _log.warning("TensorRT: %s", message)

        def forget(self) -> None:
            self._last = ""

        def last(self) -> str:
            return self._last or "it gives no reason"

    return Logger()
