"""What ONNX Runtime makes of a model: the graph after fusion, counted.

Quantized models are race cars only where the runtime fuses Q/DQ pairs into integer kernels; a pair that it
leaves alone costs more than the float operator did. So the graph that really runs is what is counted.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from packhorse_host.quantize.errors import ModelError, UnsupportedOperatorError

CPU_PROVIDER = "CPUExecutionProvider"

FLOAT_COMPUTE = frozenset(
    {
        "Attention", "Conv", "ConvTranspose", "Einsum", "FusedConv", "FusedGemm", "FusedMatMul", "GRU",
        "Gemm", "LSTM", "MatMul", "MatMulNBits", "MultiHeadAttention", "NhwcFusedConv", "RNN",
        "TransposeMatMul",
    }
)  # fmt: skip
"""Operators that multiply and accumulate in floating point."""

INTEGER_COMPUTE = frozenset(
    {
        "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger",
        "MatMulIntegerToFloat", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul",
    }
)  # fmt: skip
"""Operators that multiply 8-bit numbers and accumulate in 32 bits."""

CONVERSIONS = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})
"""Operators that turn tensors to 8-bit numbers or back."""

_INTERNALS = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+\.(?:cc|h):\d+ (?:[^()]*\([^()]*\) )?")
_WORDS_MAX = 300


class Architecture(str, Enum):
    """Processor families that fuse differently."""

    AARCH64 = "aarch64"
    X86_64 = "x86_64"


class Level(Enum):
    """How far a graph is optimized."""

    BASIC = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    """Standard operators only: constants folded, batch normalisation merged into convolutions."""
    EXTENDED = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    """All fusions; only memory layout is left to choose when the model is loaded."""


@dataclass(frozen=True)
class KernelCounts:
    """Kernels that multiply and accumulate, after fusion."""

    integer: int
    compute: int
    conversions: int = field(default=0, compare=False)
    """Kernels that only turn numbers to integers or back."""


def count_kernels(model: bytes, architecture: Architecture) -> KernelCounts:
    """Count the kernels that ONNX Runtime runs on `architecture`, whatever this machine is.

    Raises:
        ModelError: the runtime does not load the model.
    """
    operators = [node.op_type for node in all_nodes(optimized(model, Level.EXTENDED, architecture).graph)]
    integer = sum(operator in INTEGER_COMPUTE for operator in operators)
    floating = sum(operator in FLOAT_COMPUTE for operator in operators)
    conversions = sum(operator in CONVERSIONS for operator in operators)
    return KernelCounts(integer, integer + floating, conversions)


def optimized(model: bytes, level: Level, architecture: Architecture = Architecture.AARCH64) -> Any:
    """The `onnx.ModelProto` that ONNX Runtime makes of a serialized model.

    Raises:
        ModelError: the runtime does not load the model.
    """
    with tempfile.TemporaryDirectory(prefix="packhorse-") as folder:
        path = Path(folder) / "optimized.onnx"
        options = quiet_options()
        options.graph_optimization_level = level.value
        options.optimized_model_filepath = str(path)
        # Where int8 activations have no kernels (x86) they are turned to uint8 before fusion; this says which
        # of the two to fuse for. See onnxruntime_session_options_config_keys.h.
        options.add_session_config_entry(
            "session.qdqisint8allowed", "1" if architecture is Architecture.AARCH64 else "0"
        )
        open_session(model, options)
        return onnx.load(path)


def all_nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from all_nodes(inner)


def quiet_options() -> Any:
    """Session options that keep the runtime's own log off the terminal; its errors are raised anyway."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


def open_session(model: bytes, options: Any) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    Raises:
        ModelError: the runtime does not load the model.
    """
    try:
        return onnxruntime.InferenceSession(model, options, providers=[CPU_PROVIDER])
    except Exception as error:  # the runtime's exceptions share no base class
        first_line = plain_words(error)
        kind = UnsupportedOperatorError if type(error).__name__ == "NotImplemented" else ModelError
        raise kind(f"ONNX Runtime does not load the model: {first_line}") from error


def plain_words(error: Exception) -> str:
    """What the runtime says, in one line, without its own source files and C++ signatures."""
    words = " ".join(str(error).split())
    return _INTERNALS.sub("", words)[:_WORDS_MAX] or repr(error)
