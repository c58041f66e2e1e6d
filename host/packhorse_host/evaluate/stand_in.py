"""Runtimes that no machine of the packager has to have, and what computes the same in their place."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from packhorse_agent.contract.manifest import RuntimeRequirement
from packhorse_agent.contract.profile import RuntimeName

STAND_INS: Final[Mapping[RuntimeName, RuntimeName]] = MappingProxyType({"tensorrt": "onnxruntime"})
"""A model for TensorRT is an ONNX graph in which every rounding is written down; engines need its GPU."""

_ANY_VERSION: Final = "0"


def runs_here(requirement: RuntimeRequirement) -> RuntimeRequirement:
    """What runs the model on the packager's machine, on its processor."""
    name = STAND_INS.get(requirement.name)
    if name is None:
        return requirement.model_copy(update={"providers": ()})
    changes = {"name": name, "minimum_version": _ANY_VERSION, "providers": ()}
    return requirement.model_copy(update=changes)
