"""ONNX → a PyTorch module, by onnx2torch."""

from __future__ import annotations

import sys
import types
from typing import Any

from .refusal import RefusedByTool


def load_onnx(path: str) -> Any:
    """The module of an ONNX file whose batch is fixed.

    Raises:
        RefusedByTool: an operator that onnx2torch does not know.
    """
    _stand_in_for_torchvision()
    import onnx
    from onnx2torch import convert

    try:
        return convert(onnx.load(path)).eval()
    except NotImplementedError as error:
        raise RefusedByTool(f"onnx2torch does not know an operator of the model: {error}") from error


def _stand_in_for_torchvision() -> None:
    """onnx2torch imports torchvision for two operators of detectors, which are not converted anyway."""

    def missing(*_: Any, **__: Any) -> None:
        raise NotImplementedError("NonMaxSuppression and RoiAlign are not converted")

    package, operators = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
    for name in ("box_convert", "nms", "roi_align"):
        setattr(operators, name, missing)
    package.ops = operators  # type: ignore[attr-defined]
    sys.modules["torchvision"], sys.modules["torchvision.ops"] = package, operators
