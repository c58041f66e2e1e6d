"""Memory of one GPU and copies to and from it, through NVIDIA's driver library.

The driver's library, libcuda, comes with every driver, on JetPack too, and keeps its functions for ever;
libcudart is not there where TensorRT was installed from wheels. NVIDIA's own package for Python brings far
more than these twelve functions, under a licence of its own. Both libraries work on the device's primary
context, so that TensorRT and this see the same memory.
Source of names and numbers: NVIDIA, "CUDA Driver API", docs.nvidia.com/cuda/cuda-driver-api.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from packhorse_agent.errors import EnvironmentFaultError
from packhorse_agent.runtime.datatypes import Array
from packhorse_agent.runtime.errors import RuntimeMissingError

LIBRARY: Final = "libcuda.so.1"

_SUCCESS: Final = 0
_OUT_OF_MEMORY: Final = 2
_CAPABILITY_MAJOR: Final = 75
_CAPABILITY_MINOR: Final = 76
_NON_BLOCKING: Final = 1
_NAME_BYTES: Final = 256

_ADDRESS = ctypes.c_uint64
_POINTER = ctypes.c_void_p
_FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDeviceGet": (_POINTER, ctypes.c_int),
    "cuDeviceGetName": (ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    "cuDeviceGetAttribute": (_POINTER, ctypes.c_int, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (_POINTER, ctypes.c_int),
    "cuCtxSetCurrent": (_POINTER,),
    "cuMemAlloc_v2": (_POINTER, ctypes.c_size_t),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemcpyHtoDAsync_v2": (_ADDRESS, _POINTER, ctypes.c_size_t, _POINTER),
    "cuMemcpyDtoHAsync_v2": (_POINTER, _ADDRESS, ctypes.c_size_t, _POINTER),
    "cuStreamCreate": (_POINTER, ctypes.c_uint),
    "cuStreamSynchronize": (_POINTER,),
    "cuGetErrorString": (ctypes.c_int, _POINTER),
}
"""Function → types of its arguments; all return a CUresult."""


class CudaError(EnvironmentFaultError):
    """The driver failed; the text says at what."""


class CudaMemoryError(CudaError):
    """The GPU has no memory left."""


@dataclass(frozen=True)
class Gpu:
    """What an engine is built for."""

    name: str
    """As the driver says, such as `Orin`."""
    compute_capability: str
    """Such as `8.7`."""


class Cuda(Protocol):
    """One GPU. Each call but `gpu` is for the thread that called `enter` last."""

    @property
    def gpu(self) -> Gpu:
        """Which one it is."""

    def enter(self) -> None:
        """Let the calling thread use the GPU; again costs next to nothing."""

    def allocate(self, size_bytes: int) -> int:
        """The address of new memory on the GPU.

        Raises:
            CudaMemoryError: there is not so much.
        """

    def free(self, address: int) -> None:
        """Give memory back; what fails is left to the end of the process."""

    def create_stream(self) -> int:
        """A queue of work, for the rest of the process."""

    def to_device(self, address: int, array: Array, stream: int) -> None:
        """Queue a copy of a contiguous array to the GPU."""

    def to_host(self, array: Array, address: int, stream: int) -> None:
        """Queue a copy from the GPU into a contiguous array."""

    def synchronize(self, stream: int) -> None:
        """Wait for all that was queued.

        Raises:
            CudaError: some of it failed.
        """


class CudaDriver:
    """The first GPU that the driver shows (see CUDA_VISIBLE_DEVICES); see `Cuda`."""

    def __init__(self, library: Any) -> None:
        self._library = library
        for name, arguments in _FUNCTIONS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, ctypes.c_int
        device = self._opened()
        self.gpu = Gpu(
            self._name(device),
            f"{self._attribute(_CAPABILITY_MAJOR, device)}.{self._attribute(_CAPABILITY_MINOR, device)}",
        )
        self._context = self._made("cuDevicePrimaryCtxRetain", _POINTER(), device)
        self.enter()

    def enter(self) -> None:
        """See `Cuda.enter`."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size_bytes: int) -> int:
        """See `Cuda.allocate`."""
        # An empty tensor needs an address too.
        address = self._made("cuMemAlloc_v2", _ADDRESS(), max(1, size_bytes)).value
        assert address is not None  # noqa: S101
        return int(address)

    def free(self, address: int) -> None:
        """See `Cuda.free`."""
        self._library.cuMemFree_v2(address)

    def create_stream(self) -> int:
        """See `Cuda.create_stream`."""
        return int(self._made("cuStreamCreate", _POINTER(), _NON_BLOCKING).value or 0)

    def to_device(self, address: int, array: Array, stream: int) -> None:
        """See `Cuda.to_device`."""
        self._call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, stream)

    def to_host(self, array: Array, address: int, stream: int) -> None:
        """See `Cuda.to_host`."""
        self._call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, stream)

    def synchronize(self, stream: int) -> None:
        """See `Cuda.synchronize`."""
        self._call("cuStreamSynchronize", stream)

    def _opened(self) -> int:
        code = self._library.cuInit(0)
        if code != _SUCCESS:
            raise RuntimeMissingError(
                f"TensorRT needs an NVIDIA GPU, and the driver has none: {self._text(code)}"
            )
        return int(self._made("cuDeviceGet", ctypes.c_int(), 0).value)

    def _name(self, device: int) -> str:
        text = ctypes.create_string_buffer(_NAME_BYTES)
        self._call("cuDeviceGetName", text, _NAME_BYTES, device)
        return text.value.decode(errors="replace")

    def _attribute(self, attribute: int, device: int) -> int:
        return int(self._made("cuDeviceGetAttribute", ctypes.c_int(), attribute, device).value)

    def _made(self, name: str, place: Any, *arguments: Any) -> Any:
        """What a function writes to its first argument."""
        self._call(name, ctypes.byref(place), *arguments)
        return place

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code == _OUT_OF_MEMORY:
            raise CudaMemoryError(f"the GPU has too little memory left ({name})")
        if code != _SUCCESS:
            raise CudaError(f"{name} failed: {self._text(code)}")

    def _text(self, code: int) -> str:
        text = ctypes.c_char_p()
        if self._library.cuGetErrorString(code, ctypes.byref(text)) != _SUCCESS or text.value is None:
            return f"CUDA error {code}"
        return f"{text.value.decode(errors='replace')} (CUDA error {code})"


def open_cuda(load: Callable[[str], Any] = ctypes.CDLL) -> CudaDriver:
    """The first GPU of this machine.

    Raises:
        RuntimeMissingError: no driver, or no GPU; the text says what to install.
        CudaError: the driver fails.
    """
    try:
        library = load(LIBRARY)
    except OSError as error:
        raise RuntimeMissingError(
            f"TensorRT needs an NVIDIA GPU, and its driver is not here ({LIBRARY}): install the driver; "
            "in a container, start it with the NVIDIA runtime"
        ) from error
    try:
        return CudaDriver(library)
    except AttributeError as error:
        raise RuntimeMissingError(f"the NVIDIA driver is too old: {LIBRARY} has no {error}") from error
