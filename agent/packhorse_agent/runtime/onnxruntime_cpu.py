"""ONNX Runtime behind the runtime protocol.

Options, and why: one thread pool of the size that the manifest says, since a second one between operators
only competes with it; sequential execution; no spinning, so that an idle worker uses no CPU.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from packhorse_agent.contract.manifest import Datatype, RuntimeRequirement, TensorSpec
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_agent.runtime.errors import (
    InferenceFailedError,
    InputRefusedError,
    ModelLoadError,
    RuntimeMissingError,
)

CPU_PROVIDER: Final = "CPUExecutionProvider"

_PROVIDER_PACKAGES: Final[dict[str, str]] = {
    "TensorrtExecutionProvider": "onnxruntime-gpu with TensorRT",
    "CUDAExecutionProvider": "onnxruntime-gpu with CUDA",
    "QNNExecutionProvider": "onnxruntime-qnn",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
}

DATATYPES: Final[dict[str, Datatype]] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
}
"""ONNX Runtime\'s names of tensor types → those of the Open Inference Protocol."""

_LOG_ERRORS: Final = 3


class OnnxRuntimeSession:
    """A model in ONNX Runtime; see `Session`."""

    def __init__(self, session: ort.InferenceSession, notes: tuple[str, ...]) -> None:
        self._session = session
        self.inputs = tuple(_spec(node) for node in session.get_inputs())
        self.outputs = tuple(_spec(node) for node in session.get_outputs())
        self.provider: str = session.get_providers()[0]
        self.notes = notes
        self._output_names = [spec.name for spec in self.outputs]

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """One inference; see `Session.run`."""
        try:
            values = self._session.run(self._output_names, dict(inputs))
        except (ort_errors.InvalidArgument, ValueError) as error:
            raise InputRefusedError(f"the runtime refuses the input: {_first_line(error)}") from error
        except Exception as error:  # the binding raises classes of its own that share no other base
            raise InferenceFailedError(f"the runtime failed: {_first_line(error)}") from error
        return dict(zip(self._output_names, values, strict=True))


def open_session(path: Path, requirement: RuntimeRequirement) -> OnnxRuntimeSession:
    """Load an ONNX file; see `Runtime.open_session`.

    Raises:
        ModelLoadError: not an ONNX file, an operator without a kernel, a datatype without a name, or too
            large for the memory there is.
        RuntimeMissingError: none of the providers that `requirement` names is here, or it did not start.
    """
    providers = _choose_providers(requirement.providers)
    try:
        session = ort.InferenceSession(str(path), session_options(requirement.threads), providers=providers)
    except Exception as error:  # the binding raises classes of its own that share no other base
        raise ModelLoadError(f"ONNX Runtime does not load the model: {_first_line(error)}") from error
    session.disable_fallback()
    return OnnxRuntimeSession(session, _notes(requirement.providers, session.get_providers()[0]))


def session_options(threads: int) -> ort.SessionOptions:
    """The options of every session, with at most `threads` threads, and no more than there are processors."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = min(threads, len(os.sched_getaffinity(0)))
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # On x86 without VNNI 8-bit products saturate: take the exact kernels there.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = _LOG_ERRORS
    return options


def _choose_providers(preferred: Sequence[str]) -> list[str]:
    available = ort.get_available_providers()
    chosen = [provider for provider in preferred or (CPU_PROVIDER,) if provider in available]
    if not chosen:
        packages = " or ".join(_PROVIDER_PACKAGES.get(name, f"a build with {name}") for name in preferred)
        raise RuntimeMissingError(
            f"the bundle needs {', '.join(preferred)}; "
            f"this onnxruntime has {', '.join(available)}: install {packages}"
        )
    return chosen


def _notes(preferred: Sequence[str], used: str) -> tuple[str, ...]:
    if not preferred or used == preferred[0]:
        return ()
    if used not in preferred:
        raise RuntimeMissingError(
            f"{preferred[0]} did not start and ONNX Runtime took {used}, which the bundle does not allow; "
            "the worker's log says why"
        )
    return (f"runs on {used}: {preferred[0]} is preferred and not available",)


def _spec(node: Any) -> TensorSpec:
    datatype = DATATYPES.get(node.type)
    if datatype is None:
        raise ModelLoadError(
            f"tensor {node.name} is a {node.type}, which the inference protocol cannot carry"
        )
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(name=node.name, datatype=datatype, shape=shape)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
