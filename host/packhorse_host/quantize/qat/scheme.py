"""How a device rounds, as far as training has to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from packhorse_agent.contract.profile import Profile


@dataclass(frozen=True)
class Scheme:
    """INT8 weights and activations; weights are symmetric."""

    per_channel: bool = True
    """A scale for each output channel of the weights."""
    symmetric_activations: bool = False
    activation_type: Literal["int8", "uint8"] = "int8"


def scheme_for(profile: Profile) -> Scheme:
    """What the first runtime of a profile does.

    TensorRT knows symmetric ranges only. ONNX Runtime has integer kernels for uint8 activations only on x86.
    """
    runtime = profile.runtimes[0].name
    if runtime == "tensorrt":
        return Scheme(symmetric_activations=True)
    on_x86 = profile.compatible.architectures[0] == "x86_64"
    return Scheme(activation_type="uint8" if runtime == "onnxruntime" and on_x86 else "int8")
