"""The protocol that every runtime is put behind, and the door to them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol, cast

from packhorse_agent.contract.base import version_key
from packhorse_agent.contract.manifest import RuntimeRequirement, TensorSpec
from packhorse_agent.contract.profile import RuntimeName
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_agent.runtime.errors import ModelLoadError, RuntimeMissingError
from packhorse_agent.runtime.installed import DISTRIBUTIONS, HOW_TO_INSTALL, installed_runtimes

_MODULES: Final[dict[RuntimeName, str]] = {
    "onnxruntime": "packhorse_agent.runtime.onnxruntime_cpu",
    "litert": "packhorse_agent.runtime.litert",
    "tflite-runtime": "packhorse_agent.runtime.tflite_runtime",
    "executorch": "packhorse_agent.runtime.executorch",
    "pytorch-mobile": "packhorse_agent.runtime.pytorch_mobile",
    "tensorrt": "packhorse_agent.runtime.tensorrt",
}
"""Runtime → the module that brings it behind `Runtime`."""

_POSITIONAL: Final[frozenset[RuntimeName]] = frozenset({"executorch"})
"""Runtimes whose files hold no names of tensors: those of the manifest count, in its order."""


class Session(Protocol):
    """A model that is loaded and ready to run; used by one thread at a time."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes, as the runtime tells it; dimensions of any length are -1."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives, as the runtime tells it."""

    @property
    def provider(self) -> str:
        """The accelerator that runs the model."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about how it was opened, above all a preferred accelerator not had."""

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """One inference: input name → array to output name → array.

        Raises:
            InputRefusedError: the runtime finds the input wrong.
            InferenceFailedError: the runtime failed.
        """


class PositionalSession(Session, Protocol):
    """A session whose file knows its tensors by position; they have made-up names until they are given."""

    def named(self, inputs: Sequence[str], outputs: Sequence[str]) -> Session:
        """The same model with a name for each tensor, in order; there are as many names as tensors."""


class Runtime(Protocol):
    """What a module in this folder offers."""

    def open_session(self, path: Path, requirement: RuntimeRequirement) -> Session:
        """Load the model file at `path`.

        Raises:
            ModelLoadError: the runtime does not take the file.
            RuntimeMissingError: none of the accelerators that `requirement` names is here.
        """


def open_model(
    path: Path,
    requirement: RuntimeRequirement,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> Session:
    """Load a model with the runtime that its bundle names, and hold it to the tensors of its manifest.

    Raises:
        RuntimeMissingError: the runtime is not installed, too old, or has none of the accelerators named.
        ModelLoadError: the runtime does not take the file, or its tensors are not those of the manifest.
    """
    session = open_file(path, requirement)
    if requirement.name in _POSITIONAL:
        names = _names("input", inputs, session.inputs), _names("output", outputs, session.outputs)
        session = cast("PositionalSession", session).named(*names)
    _check_tensors("input", inputs, session.inputs)
    _check_tensors("output", outputs, session.outputs)
    return session


def open_file(path: Path, requirement: RuntimeRequirement) -> Session:
    """Load a model file that no manifest describes: whatever its tensors, the session tells them.

    Raises:
        RuntimeMissingError: the runtime is not installed, too old, or has none of the accelerators named.
        ModelLoadError: the runtime does not take the file.
    """
    return _runtime(requirement).open_session(path, requirement)


def _runtime(requirement: RuntimeRequirement) -> Runtime:
    name = requirement.name
    needed = f"{DISTRIBUTIONS[name][0]}>={requirement.minimum_version}"
    version = installed_runtimes().get(name)
    if version is None:
        how = HOW_TO_INSTALL.get(name, f"install {needed}")
        raise RuntimeMissingError(f"the runtime {name} is not installed: {how}")
    if version_key(version) < version_key(requirement.minimum_version):
        raise RuntimeMissingError(f"{name} {version} is installed, the bundle needs {needed}")
    if name not in _MODULES:
        raise RuntimeMissingError(f"no runtime module for {name} yet, only for {', '.join(_MODULES)}")
    try:
        return cast("Runtime", importlib.import_module(_MODULES[name]))
    except ImportError as error:
        raise RuntimeMissingError(f"{name} {version} does not import ({error}): reinstall it") from error


def _names(kind: str, specs: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> list[str]:
    if len(specs) != len(found):
        raise ModelLoadError(f"the manifest names {len(specs)} {kind}s; the model has {len(found)}")
    return [spec.name for spec in specs]


def _check_tensors(kind: str, expected: Sequence[TensorSpec], found: Sequence[TensorSpec]) -> None:
    by_name = {spec.name: spec for spec in found}
    if by_name.keys() != {spec.name for spec in expected}:
        names = ", ".join(spec.name for spec in expected)
        raise ModelLoadError(f"the manifest names the {kind}s {names}; the model has {', '.join(by_name)}")
    for spec in expected:
        actual = by_name[spec.name]
        if spec.datatype != actual.datatype or not _shapes_agree(spec.shape, actual.shape):
            raise ModelLoadError(
                f"{kind} {spec.name}: the manifest says {describe_tensor(spec)}, "
                f"the model has {describe_tensor(actual)}"
            )


def _shapes_agree(one: Sequence[int], other: Sequence[int]) -> bool:
    if len(one) != len(other):
        return False
    return all(-1 in (left, right) or left == right for left, right in zip(one, other, strict=True))


def describe_tensor(spec: TensorSpec) -> str:
    """Datatype and shape for people, such as `FP32 [-1, 1, 28, 28]`."""
    return f"{spec.datatype} [{', '.join(str(size) for size in spec.shape)}]"
