"""ExecuTorch behind the runtime protocol: `.pte` programs, with XNNPACK where they were lowered to it.

A `.pte` file knows its tensors by position only. They are named `input_0`, `output_0` and so on here, and
`base.open_model` gives them the names of the manifest, in its order.

The binding is loaded by itself: `executorch.runtime`, the public door to the same functions, also imports the
compiler, which takes ten times as long and needs torchao.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

import torch  # noqa: F401 (the binding links against its libraries and does not find them by itself)
from executorch.extension.pybindings import _C as binding  # noqa: N811 (a module, whatever its name)

from packhorse_agent.contract.manifest import Datatype, RuntimeRequirement, TensorSpec
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_agent.runtime.errors import (
    InferenceFailedError,
    InputRefusedError,
    ModelLoadError,
    RuntimeMissingError,
)
from packhorse_agent.runtime.torch_tensors import first_line, threads_for, to_named, to_positional

XNNPACK: Final = "XNNPACK"
PORTABLE: Final = "CPU"
"""The kernels that come with the runtime, written to be right rather than fast."""
METHOD: Final = "forward"

_XNNPACK_ID: Final = b"XnnpackBackend"
_SCALAR_TYPES: Final[Mapping[int, Datatype]] = MappingProxyType(
    {
        0: "UINT8", 1: "INT8", 2: "INT16", 3: "INT32", 4: "INT64", 5: "FP16", 6: "FP32", 7: "FP64",
        11: "BOOL", 27: "UINT16", 28: "UINT32", 29: "UINT64",
    }
)  # fmt: skip
"""Source: runtime/core/portable_type/scalar_type.h."""


class ExecuTorchSession:
    """A `.pte` program; see `PositionalSession`."""

    def __init__(
        self, module: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec],
        provider: str, notes: tuple[str, ...],
    ) -> None:  # fmt: skip
        self._module = module
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.provider = provider
        self.notes = notes

    def named(self, inputs: Sequence[str], outputs: Sequence[str]) -> ExecuTorchSession:
        """The same program with a name for each tensor; see `PositionalSession.named`."""
        return ExecuTorchSession(
            self._module,
            [spec.model_copy(update={"name": name}) for spec, name in zip(self.inputs, inputs, strict=True)],
            [
                spec.model_copy(update={"name": name})
                for spec, name in zip(self.outputs, outputs, strict=True)
            ],
            self.provider,
            self.notes,
        )

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """One inference; see `Session.run`."""
        tensors = to_positional(self.inputs, inputs)
        try:
            outputs = self._module.forward(tensors)
        except RuntimeError as error:
            if "set_inputs" in str(error):
                raise InputRefusedError(f"the runtime refuses the input: {first_line(error)}") from error
            raise InferenceFailedError(f"the runtime failed: {first_line(error)}") from error
        return to_named(self.outputs, outputs)


class _ThreadPool:
    """The one pool of the process. The first model sizes it: a model that is loaded points into it."""

    threads: ClassVar[int | None] = None

    @classmethod
    def sized(cls, threads: int) -> int:
        """Threads that it has; `threads` when nobody asked before."""
        if cls.threads is None:
            binding._unsafe_reset_threadpool(threads)
            cls.threads = threads
        return cls.threads


def open_session(path: Path, requirement: RuntimeRequirement) -> ExecuTorchSession:
    """Load a `.pte` file; see `Runtime.open_session`.

    Raises:
        ModelLoadError: not a `.pte` file, an operator or delegate that is not here, or inputs that are no
            tensors.
        RuntimeMissingError: none of the accelerators that `requirement` names is here.
    """
    wanted = _accelerator(requirement)
    threads = threads_for(requirement)
    got = _ThreadPool.sized(threads)
    provider = XNNPACK if _names_xnnpack(path) else PORTABLE
    notes = [f"runs on {got} threads, not {threads}: the process has one pool"] if got != threads else []
    if wanted == XNNPACK and provider == PORTABLE:
        notes.append("runs on the portable kernels: nothing in the file was lowered to XNNPACK")
    try:
        module = binding._load_for_executorch(str(path))
        meta = module.method_meta(METHOD)
        inputs = [_spec(f"input_{at}", meta.input_tensor_meta(at)) for at in range(meta.num_inputs())]
        outputs = [_spec(f"output_{at}", meta.output_tensor_meta(at)) for at in range(meta.num_outputs())]
    except (RuntimeError, IndexError) as error:
        raise ModelLoadError(f"ExecuTorch does not load the model: {first_line(error)}") from error
    return ExecuTorchSession(module, inputs, outputs, provider, tuple(notes))


def _names_xnnpack(path: Path) -> bool:
    try:
        return _XNNPACK_ID in path.read_bytes()
    except OSError as error:
        raise ModelLoadError(f"ExecuTorch does not load the model: {first_line(error)}") from error


def _accelerator(requirement: RuntimeRequirement) -> str:
    known = [name for name in requirement.providers or (XNNPACK,) if name in (XNNPACK, PORTABLE)]
    if not known:
        raise RuntimeMissingError(
            f"the bundle needs {', '.join(requirement.providers)}; packhorse runs ExecuTorch on "
            f"{XNNPACK} and {PORTABLE} only: pack it for one of these"
        )
    return known[0]


def _spec(name: str, info: Any) -> TensorSpec:
    datatype = _SCALAR_TYPES.get(info.dtype())
    if datatype is None:
        raise ModelLoadError(
            f"tensor {name} is of type {info.dtype()}, which the inference protocol cannot carry"
        )
    return TensorSpec(name=name, datatype=datatype, shape=tuple(info.sizes()))
