"""Half precision: half the bytes, and the arithmetic where a processor has it.

ONNX Runtime runs half precision on a CPU only where it has such kernels (some on ARM); elsewhere it puts
casts around its float kernels, which makes the model slower than FP32: the race says so.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

LARGEST: Final = float(np.finfo(np.float16).max)
"""65,504"""


def halve(model: Any) -> Any:
    """A copy in half precision; inputs and outputs keep their types.

    Nodes with a constant beyond `LARGEST` stay in single precision: cut off it would be another number.
    Constants that are too small become the smallest half or zero, an error below 6e-8.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return convert_float_to_float16(copy, keep_io_types=True, node_block_list=_too_large(copy.graph))


def _too_large(graph: Any) -> list[str]:
    large = {tensor.name for tensor in graph.initializer if _exceeds(tensor)}
    return [node.name for node in graph.node if large.intersection(node.input)]


def _exceeds(tensor: Any) -> bool:
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return False
    return bool((np.abs(numpy_helper.to_array(tensor)) > LARGEST).any())
