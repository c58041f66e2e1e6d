"""A quantized program in the forms that runtimes take."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from packhorse_host.convert.tools.executorch_program import lower
from packhorse_host.convert.tools.refusal import RefusedByTool
from packhorse_host.errors import BadInputError, ConfigError
from packhorse_host.quantize.qat.constants import quantize_biases, separate_constants
from packhorse_host.quantize.qat.train import Program

OPSET: Final = 18


def save(program: Program, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Write a program of `train_quantized` in the form that the suffix of `path` names.

    `.onnx`: Q/DQ pairs for ONNX Runtime and TensorRT. `.pt2`: what `packhorse pack` lowers for ExecuTorch.
    `.pte`: lowered for ExecuTorch right away; it keeps no names.

    Args:
        program: from `train_quantized`.
        path: a file to write.
        inputs: a name for each input, in order.
        outputs: likewise.

    Raises:
        BadInputError: the exporter does not take the program.
        ConfigError: nothing here writes files of this suffix; the text says which.
    """
    writer = _WRITERS.get(path.suffix)
    if writer is None:
        reason = (
            "litert-torch quantizes by rules of its own and does not keep these pairs: quantize the trained "
            "float network with static_wi8_ai8 instead; "
            if path.suffix == ".tflite"
            else ""
        )
        raise ConfigError(f"{path.name}: {reason}{', '.join(_WRITERS)} are written")
    with tempfile.TemporaryDirectory(prefix="packhorse-") as folder:
        scratch = Path(folder) / path.name
        writer(program, scratch, list(inputs), list(outputs))
        path.write_bytes(scratch.read_bytes())


def _onnx(program: Program, path: Path, inputs: list[str], outputs: list[str]) -> None:
    import onnx
    import torch

    try:
        torch.onnx.export(
            program, (), path, input_names=inputs, output_names=outputs, opset_version=OPSET, dynamo=True,
            external_data=False, verbose=False,
        )  # fmt: skip
    except Exception as error:  # whatever an exporter raises on a graph that it does not expect
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise BadInputError(f"torch.onnx does not export the program: {first[0][:500]}") from error
    onnx.save(separate_constants(quantize_biases(onnx.load(path))), path)


def _pt2(program: Program, path: Path, inputs: list[str], outputs: list[str]) -> None:
    import torch

    torch.export.save(program, path)


def _pte(program: Program, path: Path, inputs: list[str], outputs: list[str]) -> None:
    try:
        path.write_bytes(lower(program))
    except RefusedByTool as error:
        raise BadInputError(str(error)) from error


_WRITERS: Final[Mapping[str, Callable[[Any, Path, list[str], list[str]], None]]] = MappingProxyType(
    {".onnx": _onnx, ".pt2": _pt2, ".pte": _pte}
)
