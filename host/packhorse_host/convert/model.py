"""What conversion gives: a float model in the form of one runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.contract.profile import RuntimeName

Format = Literal["onnx", "tflite", "pt2"]

FORMATS: Final[dict[RuntimeName, Format]] = {
    "onnxruntime": "onnx",
    "litert": "tflite",
    "tflite-runtime": "tflite",
    "executorch": "pt2",
    "pytorch-mobile": "pt2",
    "tensorrt": "onnx",
}
"""Runtime → the form of the float model that its recipes start from."""


@dataclass(frozen=True)
class FloatModel:
    """A float model in the form that a runtime's recipes start from."""

    data: bytes
    """For ExecuTorch and PyTorch Mobile a program of torch.export, which their emitters lower."""
    runtime: RuntimeName
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...] = ()
    """What a person should know about how it came about."""
    sqnr_db: float | None = None
    """Against the source in its own framework; None where the source was taken as it is."""

    @property
    def sha256(self) -> str:
        """Of `data`."""
        return sha256_hex(self.data)

    @property
    def one_at_a_time(self) -> bool:
        """Whether the first axis is fixed to a single sample."""
        return any(spec.shape[:1] == (1,) for spec in self.inputs)
