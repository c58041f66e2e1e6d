"""A stand-in for TensorRT and its GPU where there is none: the calls that packhorse makes, as documented.

It builds "engines" that hold the ONNX model and runs them with ONNX Runtime on memory that lies at real
addresses. What it cannot show is what the real builder takes and how fast it is.
Source of the calls: NVIDIA, "TensorRT Python API", docs.nvidia.com/deeplearning/tensorrt/latest/_static.
"""

from __future__ import annotations

import ctypes
import json
from enum import IntEnum
from typing import Any

import numpy as np
import onnx
import onnxruntime

from packhorse_agent.runtime.cuda_driver import CudaError, CudaMemoryError, Gpu
from packhorse_agent.runtime.datatypes import Array

ORIN = Gpu("Orin", "8.7")

_TYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int32)": "INT32",
          "tensor(int64)": "INT64", "tensor(bool)": "BOOL", "tensor(uint8)": "UINT8", "tensor(int8)": "INT8",
          "tensor(bfloat16)": "BF16"}  # fmt: skip


class FakeCuda:
    """`Cuda` on host memory; refuses addresses that it did not give, and copies only when told to wait."""

    def __init__(self, gpu: Gpu = ORIN, memory_bytes: int = 2**30) -> None:
        self.gpu = gpu
        self.entered = 0
        self.memory: dict[int, Any] = {}
        self.free_bytes = memory_bytes
        self.fail_at_wait = False
        self._queue: list[Any] = []

    def enter(self) -> None:
        self.entered += 1

    def allocate(self, size_bytes: int) -> int:
        if size_bytes > self.free_bytes:
            raise CudaMemoryError("the GPU has too little memory left (cuMemAlloc_v2)")
        self.free_bytes -= size_bytes
        block = ctypes.create_string_buffer(max(1, size_bytes))
        address = ctypes.addressof(block)
        self.memory[address] = block
        return address

    def free(self, address: int) -> None:
        self.free_bytes += len(self.memory.pop(address))

    def create_stream(self) -> int:
        return 7

    def queue(self, work: Any) -> None:
        self._queue.append(work)

    def to_device(self, address: int, array: Array, stream: int) -> None:
        assert array.flags.c_contiguous
        assert stream == 7
        assert array.nbytes <= len(self.memory[address])
        self.queue(lambda: ctypes.memmove(address, array.ctypes.data, array.nbytes))

    def to_host(self, array: Array, address: int, stream: int) -> None:
        assert array.flags.c_contiguous
        assert array.nbytes <= len(self.memory[address])
        self.queue(lambda: ctypes.memmove(array.ctypes.data, address, array.nbytes))

    def synchronize(self, stream: int) -> None:
        if self.fail_at_wait:
            raise CudaError("cuStreamSynchronize failed: an illegal memory access was encountered")
        for work in self._queue:
            work()
        self._queue.clear()


class FakeTensorRt:
    """The module `tensorrt`."""

    class ILogger:
        class Severity(IntEnum):
            INTERNAL_ERROR = 0
            ERROR = 1
            WARNING = 2
            INFO = 3
            VERBOSE = 4

    class NetworkDefinitionCreationFlag(IntEnum):
        EXPLICIT_BATCH = 0
        STRONGLY_TYPED = 1

    class MemoryPoolType(IntEnum):
        WORKSPACE = 0

    class BuilderFlag(IntEnum):
        TF32 = 7

    class TensorIOMode(IntEnum):
        NONE = 0
        INPUT = 1
        OUTPUT = 2

    class DataType(IntEnum):
        FLOAT = 0
        HALF = 1
        INT8 = 2
        INT32 = 3
        BOOL = 4
        UINT8 = 5
        BF16 = 7
        INT64 = 8

    def __init__(self, cuda: FakeCuda, version: str = "10.3.0") -> None:
        self.__version__ = version
        self.cuda = cuda
        self.builds = 0
        self.refuse_build = ""
        self.refuse_loads = 0
        self.refuse_context = False
        self.refuse_run = False
        self.timings_given: list[bytes] = []

    def stamp(self) -> str:
        """What engines and timings are good for."""
        return f"{self.__version__} {self.cuda.gpu}"

    def Builder(self, logger: Any) -> Any:  # noqa: N802 (the name is TensorRT's)
        return _Builder(self, logger)

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        return _Parser(network)

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        return _Runtime(self, logger)


class _Builder:
    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        self._trt, self._logger = trt, logger

    def create_network(self, flags: int = 0) -> Any:
        assert flags == 1 << FakeTensorRt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return _Network()

    def create_builder_config(self) -> Any:
        return _Config(self._trt)

    def create_optimization_profile(self) -> Any:
        return _Profile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        self._trt.builds += 1
        if self._trt.refuse_build:
            self._logger.log(FakeTensorRt.ILogger.Severity.ERROR, self._trt.refuse_build)
            return None
        assert config.timing is not None, "without a cache every kernel is timed again"
        config.timing.content += b"+"
        described = {"stamp": self._trt.stamp(), "profile": config.profiles, "tf32": config.tf32}
        return memoryview(json.dumps(described).encode() + b"\0" + network.model)


class _Network:
    model = b""

    def load(self, model: bytes) -> None:
        self.model = model
        graph = onnx.load_model_from_string(model).graph
        constants = {tensor.name for tensor in graph.initializer}
        self._inputs = [_Input(value) for value in graph.input if value.name not in constants]

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]


class _Input:
    def __init__(self, value: Any) -> None:
        self.name = value.name
        axes = value.type.tensor_type.shape.dim
        self.shape = tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in axes)


class _Parser:
    def __init__(self, network: Any) -> None:
        self._network = network
        self._errors: list[str] = []

    def parse(self, model: bytes) -> bool:
        try:
            self._network.load(model)
        except Exception as error:
            self._errors.append(f"Failed to parse the ONNX model ({type(error).__name__})")
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return _Said(self._errors[index])


class _Said:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, least: Any, usual: Any, most: Any) -> None:
        assert all(len(shape) == len(least) for shape in (usual, most))
        self.shapes[name] = [list(least), list(most)]


class _Timing:
    def __init__(self, stamp: str, content: bytes) -> None:
        self.stamp, self.content = stamp, content

    def serialize(self) -> memoryview:
        return memoryview(self.stamp.encode() + b"|" + self.content)


class _Config:
    def __init__(self, trt: FakeTensorRt) -> None:
        self._trt = trt
        self.timing: _Timing | None = None
        self.profiles: dict[str, Any] = {}
        self.tf32 = True

    def set_memory_pool_limit(self, pool: Any, size_bytes: int) -> None:
        assert pool is FakeTensorRt.MemoryPoolType.WORKSPACE
        assert size_bytes > 0

    def clear_flag(self, flag: Any) -> None:
        assert flag is FakeTensorRt.BuilderFlag.TF32
        self.tf32 = False

    def create_timing_cache(self, serialized: bytes) -> Any:
        self._trt.timings_given.append(serialized)
        stamp, _, content = serialized.partition(b"|")
        return _Timing(stamp.decode() or self._trt.stamp(), content)

    def set_timing_cache(self, cache: _Timing, ignore_mismatch: bool) -> bool:
        if cache.stamp != self._trt.stamp() and not ignore_mismatch:
            return False
        self.timing = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.timing

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles = profile.shapes
        return 0


class _Runtime:
    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        self._trt, self._logger = trt, logger

    def deserialize_cuda_engine(self, serialized: bytes) -> Any:
        header, _, model = serialized.partition(b"\0")
        described = json.loads(header)
        self._trt.refuse_loads -= 1
        if self._trt.refuse_loads >= 0 or described["stamp"] != self._trt.stamp():
            self._logger.log(FakeTensorRt.ILogger.Severity.ERROR, "The engine plan file is not compatible")
            return None
        return _Engine(self._trt, described, model)


class _Engine:
    def __init__(self, trt: FakeTensorRt, described: Any, model: bytes) -> None:
        self.trt = trt
        self.profile = described["profile"]
        self.session = onnxruntime.InferenceSession(model)
        self.given = {value.name: value for value in self.session.get_inputs()}
        self.tensors = {**self.given, **{value.name: value for value in self.session.get_outputs()}}

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return str(list(self.tensors)[index])

    def get_tensor_mode(self, name: str) -> Any:
        modes = FakeTensorRt.TensorIOMode
        return modes.INPUT if name in self.given else modes.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(axis if isinstance(axis, int) else -1 for axis in self.tensors[name].shape)

    def get_tensor_dtype(self, name: str) -> Any:
        return FakeTensorRt.DataType[_TYPES[self.tensors[name].type]]

    def create_execution_context(self) -> Any:
        return None if self.trt.refuse_context else _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: Any) -> bool:
        least, most = self._engine.profile.get(name, [shape, shape])
        self._shapes[name] = tuple(shape)
        return all(low <= length <= high for low, length, high in zip(least, shape, most, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = next((shape[0] for shape in self._shapes.values() if shape), 1)
        shape = self._engine.get_tensor_shape(name)
        return tuple(batch if axis == -1 and at == 0 else axis for at, axis in enumerate(shape))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return address in self._engine.trt.cuda.memory

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self._engine.trt.refuse_run:
            return False
        assert self._addresses.keys() == self._engine.tensors.keys(), "every tensor needs memory"
        self._engine.trt.cuda.queue(self._run)
        return True

    def _run(self) -> None:
        types = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "BOOL": np.bool_}
        feed: dict[str, Array] = {}
        for name in self._engine.given:
            shape, kind = self._shapes[name], types[self._engine.get_tensor_dtype(name).name]
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            held = ctypes.string_at(self._addresses[name], size)
            feed[name] = np.frombuffer(held, kind).reshape(shape)
        names = [name for name in self._engine.tensors if name not in feed]
        for name, array in zip(names, self._engine.session.run(names, feed), strict=True):
            ctypes.memmove(self._addresses[name], np.ascontiguousarray(array).ctypes.data, array.nbytes)
