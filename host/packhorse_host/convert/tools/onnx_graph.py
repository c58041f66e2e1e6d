"""ONNX → a PyTorch module, by onnx2torch."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

from .refusal import RefusedByTool


def load_onnx(path: str) -> Any:
    """The module of an ONNX file whose batch is fixed.

    Raises:
        RefusedByTool: an operator that onnx2torch does not know.
    """
    import onnx

    with _torchvision_stand_in():
        from onnx2torch import convert
    try:
        return convert(onnx.load(path)).eval()
    except NotImplementedError as error:
        raise RefusedByTool(f"onnx2torch does not know an operator of the model: {error}") from error


@contextlib.contextmanager
def _torchvision_stand_in() -> Iterator[None]:
    """onnx2torch imports torchvision for two operators of detectors, which are not converted anyway.

    It goes away again: exporters look for torchvision, and would take this for the real one.
    """

    def missing(*_: Any, **__: Any) -> None:
        raise NotImplementedError("NonMaxSuppression and RoiAlign are not converted")

    package, operators = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
    for name in ("box_convert", "nms", "roi_align"):
        setattr(operators, name, missing)
    package.ops = operators  # type: ignore[attr-defined]
    sys.modules["torchvision"], sys.modules["torchvision.ops"] = package, operators
    try:
        yield
    finally:
        del sys.modules["torchvision"], sys.modules["torchvision.ops"]
