"""What LiteRT and tflite-runtime have in common: `.tflite` models behind the runtime protocol.

Both bring the same `Interpreter` class. Tensors go by the names of the SignatureDef where the model has one
for its main graph, else by their own. Without other wishes the interpreter puts XNNPACK, its kernels for
CPUs, under every part of the graph that it can run; what is left runs on the built-in kernels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from packhorse_agent.contract.manifest import RuntimeRequirement, TensorSpec
from packhorse_agent.runtime.datatypes import Array, Tensors, datatype_of
from packhorse_agent.runtime.errors import (
    InferenceFailedError,
    InputRefusedError,
    ModelLoadError,
    RuntimeMissingError,
)
from packhorse_agent.runtime.inputs import check_fits

XNNPACK: Final = "XNNPACK"
BUILTIN: Final = "CPU"
"""The kernels that come with the interpreter, with no delegate."""

_RESOLVER_OPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {XNNPACK: "AUTO", BUILTIN: "BUILTIN_WITHOUT_DEFAULT_DELEGATES"}
)
"""Accelerator → the `OpResolverType` that gives it."""


@dataclass(frozen=True)
class Library:
    """One of the two libraries, imported."""

    name: str
    interpreter: Any
    """Its `Interpreter` class."""
    resolvers: Any
    """Its `OpResolverType`."""


@dataclass(frozen=True)
class _Port:
    spec: TensorSpec
    index: int


class FlatbufferSession:
    """A `.tflite` model in an interpreter; see `Session`."""

    def __init__(self, interpreter: Any, provider: str, notes: tuple[str, ...]) -> None:
        self._interpreter = interpreter
        inputs, outputs = _ports(interpreter)
        self._inputs = {port.spec.name: port for port in inputs}
        self._outputs = outputs
        self._shapes = {
            detail["index"]: tuple(map(int, detail["shape"])) for detail in interpreter.get_input_details()
        }
        self.inputs = tuple(port.spec for port in inputs)
        self.outputs = tuple(port.spec for port in outputs)
        self.provider = provider
        self.notes = notes

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """One inference; see `Session.run`."""
        if inputs.keys() != self._inputs.keys():
            raise InputRefusedError(f"the model takes {_listed(self._inputs)}, got {_listed(inputs)}")
        for name, array in inputs.items():
            check_fits(self._inputs[name].spec, array)
        try:
            return self._invoked(inputs)
        except (RuntimeError, ValueError) as error:
            raise InferenceFailedError(f"the runtime failed: {_first_line(error)}") from error

    def _invoked(self, inputs: Tensors) -> dict[str, Array]:
        self._resize(inputs)
        for name, array in inputs.items():
            self._interpreter.set_tensor(self._inputs[name].index, array)
        self._interpreter.invoke()
        return {port.spec.name: self._interpreter.get_tensor(port.index) for port in self._outputs}

    def _resize(self, inputs: Tensors) -> None:
        wanted = {self._inputs[name].index: array.shape for name, array in inputs.items()}
        if wanted == self._shapes:
            return
        self._shapes.clear()  # whatever fails below: the next inference allocates anew
        for index, shape in wanted.items():
            self._interpreter.resize_tensor_input(index, shape, strict=True)
        self._interpreter.allocate_tensors()
        self._shapes.update(wanted)


def open_session(library: Library, path: Path, requirement: RuntimeRequirement) -> FlatbufferSession:
    """Load a `.tflite` file; see `Runtime.open_session`.

    Raises:
        ModelLoadError: not a `.tflite` file, an operator without a kernel, or a datatype without a name.
        RuntimeMissingError: none of the accelerators that `requirement` names is here.
    """
    wanted = _accelerator(library, requirement)
    try:
        interpreter = library.interpreter(
            model_path=str(path),
            num_threads=min(requirement.threads, len(os.sched_getaffinity(0))),
            experimental_op_resolver_type=getattr(library.resolvers, _RESOLVER_OPTIONS[wanted]),
        )
        interpreter.allocate_tensors()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelLoadError(f"{library.name} does not load the model: {_first_line(error)}") from error
    parts = _delegated_parts(interpreter)
    return FlatbufferSession(
        interpreter, XNNPACK if parts else BUILTIN, _notes(requirement.providers, wanted, parts)
    )


def _accelerator(library: Library, requirement: RuntimeRequirement) -> str:
    preferred = requirement.providers or (XNNPACK,)
    known = [name for name in preferred if name in _RESOLVER_OPTIONS]
    if not known:
        raise RuntimeMissingError(
            f"the bundle needs {', '.join(preferred)}; packhorse runs {library.name} on "
            f"{' and '.join(_RESOLVER_OPTIONS)} only: pack it for one of these"
        )
    return known[0]


def _delegated_parts(interpreter: Any) -> int:
    # No public call tells what a delegate took; both libraries have this one.
    return sum(detail["op_name"] == "DELEGATE" for detail in interpreter._get_ops_details())


def _notes(preferred: tuple[str, ...], wanted: str, parts: int) -> tuple[str, ...]:
    notes = []
    if preferred and preferred[0] != wanted:
        notes.append(f"runs on {wanted}: {preferred[0]} is preferred and not available")
    if wanted == XNNPACK and parts == 0:
        notes.append("runs on the built-in kernels: XNNPACK takes none of the model's operators")
    if parts > 1:
        notes.append(f"XNNPACK runs {parts} separate parts of the graph, built-in kernels what is between")
    return tuple(notes)


def _ports(interpreter: Any) -> tuple[list[_Port], list[_Port]]:
    inputs = {detail["index"]: detail for detail in interpreter.get_input_details()}
    outputs = {detail["index"]: detail for detail in interpreter.get_output_details()}
    for key in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(key)
        named_inputs = {name: detail["index"] for name, detail in runner.get_input_details().items()}
        named_outputs = {name: detail["index"] for name, detail in runner.get_output_details().items()}
        del runner  # while it lives the interpreter refuses to allocate
        if set(named_inputs.values()) == set(inputs) and set(named_outputs.values()) == set(outputs):
            return _named(named_inputs, inputs), _named(named_outputs, outputs)
    return (
        _named({detail["name"]: index for index, detail in inputs.items()}, inputs),
        _named({detail["name"]: index for index, detail in outputs.items()}, outputs),
    )


def _named(names: Mapping[str, int], details: Mapping[int, Any]) -> list[_Port]:
    order = list(details)
    ordered = sorted(names.items(), key=lambda pair: order.index(pair[1]))
    return [_Port(_spec(name, details[index]), index) for name, index in ordered]


def _spec(name: str, detail: Any) -> TensorSpec:
    dtype = np.dtype(detail["dtype"])
    datatype = datatype_of(np.empty(0, dtype))
    if datatype is None:
        raise ModelLoadError(f"tensor {name} is a {dtype}, which the inference protocol cannot carry")
    signature = detail["shape_signature"]
    shape = signature if len(signature) else detail["shape"]
    return TensorSpec(name=name, datatype=datatype, shape=tuple(map(int, shape)))


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(names) or "nothing"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
