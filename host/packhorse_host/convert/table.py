"""Sources × runtimes: which conversions there are, and why the others are not. Data only.

docs/reference/conversions.md is made from it, and a test walks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

from packhorse_agent.contract.profile import RuntimeName
from packhorse_host.convert.environments import EnvironmentName
from packhorse_host.convert.sources import SourceKind

Route = Literal[
    "as-it-is",
    "onnx-to-exported",
    "onnx-to-tflite",
    "tensorflow-to-onnx",
    "tensorflow-to-tflite",
    "torch-to-exported",
    "torch-to-onnx",
    "torch-to-tflite",
]
"""A way that `packhorse_host.convert.convert` knows."""


@dataclass(frozen=True)
class Works:
    """There is a conversion."""

    route: Route
    how: str
    environments: tuple[EnvironmentName, ...] = ()
    """Tool environments that it needs."""


@dataclass(frozen=True)
class Refused:
    """There is none."""

    reason: str
    instead: str
    """The nearest way that works."""


Cell = Works | Refused

RUNTIMES: Final[tuple[RuntimeName, ...]] = get_args(RuntimeName)

_TITLES: Final[Mapping[SourceKind, str]] = MappingProxyType(
    {
        "onnx": "ONNX",
        "tflite": "TFLite (`.tflite`)",
        "keras": "Keras (`.keras`, `.h5`)",
        "saved-model": "TensorFlow SavedModel",
        "torch-exported": "PyTorch exported program (`.pt2`)",
        "torch-module": "PyTorch module in Python (`FILE.py:NAME`)",
        "state-dict": "PyTorch weights (`.pth`) with their class",
        "torch-pickle": "PyTorch whole-module pickle, on explicit request",
    }
)
SOURCES: Final = _TITLES
"""Source kind → what people call it."""

_TORCH_KINDS: Final[tuple[SourceKind, ...]] = ("torch-exported", "torch-module", "state-dict", "torch-pickle")
_TENSORFLOW_KINDS: Final[tuple[SourceKind, ...]] = ("keras", "saved-model")

_ENGINE: Final = "; the device builds the engine"
_TFLITE_IS_AN_END: Final = Refused(
    "its operators are fused and laid out for TensorFlow Lite, and nothing turns them back faithfully",
    "pack it for litert, or start from the model that it was made from",
)
_TENSORFLOW_TO_TORCH: Final = Refused(
    "no tool turns TensorFlow graphs into PyTorch ones",
    "pack it for litert, or convert it to ONNX with tf2onnx and start from that",
)


def _onnx() -> dict[RuntimeName, Cell]:
    return {
        "onnxruntime": Works("as-it-is", "taken as it is"),
        "litert": Works("onnx-to-tflite", "onnx2torch, then litert-torch; batch of 1", ("torch",)),
        "tflite-runtime": Works(
            "onnx-to-tflite",
            "as for litert, then tried on tflite-runtime 2.14",
            ("torch", "tflite-runtime"),
        ),
        "executorch": Works(
            "onnx-to-exported", "onnx2torch, torch.export, then lowered to XNNPACK; batch of 1", ("torch",)
        ),
        "pytorch-mobile": Works(
            "onnx-to-exported",
            "onnx2torch, torch.export, then TorchScript's lite form (legacy); batch of 1",
            ("torch",),
        ),
        "tensorrt": Works("as-it-is", "taken as it is" + _ENGINE),
    }


def _tflite() -> dict[RuntimeName, Cell]:
    return {
        "onnxruntime": _TFLITE_IS_AN_END,
        "litert": Works("as-it-is", "taken as it is"),
        "tflite-runtime": Works(
            "as-it-is", "taken as it is, tried on tflite-runtime 2.14", ("tflite-runtime",)
        ),
        "executorch": _TFLITE_IS_AN_END,
        "pytorch-mobile": _TFLITE_IS_AN_END,
        "tensorrt": _TFLITE_IS_AN_END,
    }


def _tensorflow() -> dict[RuntimeName, Cell]:
    return {
        "onnxruntime": Works("tensorflow-to-onnx", "tf2onnx", ("tensorflow",)),
        "litert": Works("tensorflow-to-tflite", "TensorFlow's TFLiteConverter", ("tensorflow",)),
        "tflite-runtime": Works(
            "tensorflow-to-tflite",
            "as for litert, then tried on tflite-runtime 2.14",
            ("tensorflow", "tflite-runtime"),
        ),
        "executorch": _TENSORFLOW_TO_TORCH,
        "pytorch-mobile": _TENSORFLOW_TO_TORCH,
        "tensorrt": Works("tensorflow-to-onnx", "tf2onnx" + _ENGINE, ("tensorflow",)),
    }


def _torch() -> dict[RuntimeName, Cell]:
    return {
        "onnxruntime": Works("torch-to-onnx", "torch.onnx", ("torch",)),
        "litert": Works("torch-to-tflite", "litert-torch; the batch of its example inputs", ("torch",)),
        "tflite-runtime": Works(
            "torch-to-tflite",
            "as for litert, then tried on tflite-runtime 2.14",
            ("torch", "tflite-runtime"),
        ),
        "executorch": Works(
            "torch-to-exported",
            "torch.export, then lowered to XNNPACK; the batch of its example inputs",
            ("torch",),
        ),
        "pytorch-mobile": Works(
            "torch-to-exported",
            "torch.export, then TorchScript's lite form (legacy); the batch of its example inputs",
            ("torch",),
        ),
        "tensorrt": Works("torch-to-onnx", "torch.onnx" + _ENGINE, ("torch",)),
    }


def _table() -> dict[tuple[SourceKind, RuntimeName], Cell]:
    rows: dict[SourceKind, dict[RuntimeName, Cell]] = {"onnx": _onnx(), "tflite": _tflite()}
    rows |= {kind: _tensorflow() for kind in _TENSORFLOW_KINDS}
    rows |= {kind: _torch() for kind in _TORCH_KINDS}
    return {(kind, runtime): cell for kind, row in rows.items() for runtime, cell in row.items()}


TABLE: Final[Mapping[tuple[SourceKind, RuntimeName], Cell]] = MappingProxyType(_table())
"""Every cell."""
