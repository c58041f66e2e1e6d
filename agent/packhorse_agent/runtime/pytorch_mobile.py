"""PyTorch Mobile behind the runtime protocol: `.ptl` files for TorchScript's lite interpreter. Legacy.

PyTorch no longer develops it; ExecuTorch took its place. A `.ptl` file says nothing about its tensors, so the
packager adds `extra/packhorse.json`, which lists them in the order of the arguments; a file without it is not
taken. Quantized operators are packed for one engine when the file is loaded, QNNPACK here: the default on x86
saturates where products of 8-bit numbers are added in pairs.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Final

import torch
import torch.jit.mobile
from pydantic import ValidationError

from packhorse_agent.contract.base import WireDocument
from packhorse_agent.contract.manifest import RuntimeRequirement, TensorSpec
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_agent.runtime.errors import InferenceFailedError, ModelLoadError, RuntimeMissingError
from packhorse_agent.runtime.torch_tensors import first_line, threads_for, to_named, to_positional

QNNPACK: Final = "QNNPACK"
DESCRIPTION: Final = "extra/packhorse.json"
LEGACY: Final = (
    "PyTorch Mobile is legacy: PyTorch mends nothing in it any more; ExecuTorch (.pte) took its place"
)

_DESCRIPTION_MAX_BYTES: Final = 64 * 1024


class Description(WireDocument):
    """The tensors of a `.ptl` file, in the order of the arguments and results."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class PytorchMobileSession:
    """A `.ptl` model in the lite interpreter; see `Session`."""

    def __init__(self, module: Any, description: Description) -> None:
        self._module = module
        self.inputs = description.inputs
        self.outputs = description.outputs
        self.provider = QNNPACK
        self.notes = (LEGACY,)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """One inference; see `Session.run`."""
        tensors = to_positional(self.inputs, inputs)
        try:
            with torch.inference_mode():
                answer = self._module(*tensors)
        except RuntimeError as error:
            raise InferenceFailedError(f"the runtime failed: {first_line(error)}") from error
        return to_named(self.outputs, answer if isinstance(answer, list | tuple) else [answer])


def open_session(path: Path, requirement: RuntimeRequirement) -> PytorchMobileSession:
    """Load a `.ptl` file; see `Runtime.open_session`.

    The engine of quantized operators and the number of threads hold for the whole process.

    Raises:
        ModelLoadError: not a `.ptl` file, an operator without a kernel, or tensors that it does not describe.
        RuntimeMissingError: this build of torch has no QNNPACK, or the bundle wants something else.
    """
    if requirement.providers and QNNPACK not in requirement.providers:
        raise RuntimeMissingError(
            f"the bundle needs {', '.join(requirement.providers)}; "
            f"packhorse runs PyTorch Mobile on {QNNPACK} only: pack it for that"
        )
    if "qnnpack" not in torch.backends.quantized.supported_engines:
        raise RuntimeMissingError(f"torch {torch.__version__} is built without {QNNPACK}: install another")
    description = _description(path)
    torch.backends.quantized.engine = "qnnpack"
    torch.set_num_threads(threads_for(requirement))
    try:
        module = torch.jit.mobile._load_for_lite_interpreter(str(path))
    except (RuntimeError, ValueError) as error:
        raise ModelLoadError(f"PyTorch Mobile does not load the model: {first_line(error)}") from error
    return PytorchMobileSession(module, description)


def _description(path: Path) -> Description:
    try:
        with zipfile.ZipFile(path) as archive:
            # the archive holds one folder, named after the file that it was first written to
            found = [name for name in archive.namelist() if name.partition("/")[2] == DESCRIPTION]
            if not found:
                raise ModelLoadError(
                    f"the file does not describe its tensors ({DESCRIPTION}): make it with packhorse"
                )
            with archive.open(found[0]) as file:
                text = file.read(_DESCRIPTION_MAX_BYTES + 1)
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelLoadError(f"PyTorch Mobile does not load the model: {first_line(error)}") from error
    if len(text) > _DESCRIPTION_MAX_BYTES:
        raise ModelLoadError(f"{DESCRIPTION} is longer than {_DESCRIPTION_MAX_BYTES} bytes")
    try:
        return Description.model_validate_json(text)
    except ValidationError as error:
        raise ModelLoadError(f"{DESCRIPTION} does not describe tensors: {first_line(error)}") from error
