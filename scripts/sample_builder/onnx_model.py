"""The trained network as an ONNX file, and what that file scores in ONNX Runtime."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from sample_builder.dataset import IMAGE_SIDE_PX, Split, as_input
from sample_builder.network import SampleNetwork

INPUT_NAME = "image"
OUTPUT_NAME = "logits"
OPSET = 17
_BATCH_SIZE = 500


def export(network: SampleNetwork, path: Path) -> None:
    """Write the network, batch normalisation folded into the convolutions, as one ONNX file.

    The batch axis is dynamic and named `batch`. The network itself stays as it is.
    """
    folded = copy.deepcopy(network)
    folded.fold()
    torch.onnx.export(
        folded,
        (torch.zeros(1, 1, IMAGE_SIDE_PX, IMAGE_SIDE_PX),),
        str(path),
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_axes={INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}},
        opset_version=OPSET,
        # The newer exporter writes source paths into the file and needs another package.
        dynamo=False,
    )
    onnx.checker.check_model(onnx.load(path), full_check=True)


def predict(path: Path, split: Split) -> npt.NDArray[np.int64]:
    """Return the class, int64 [N], that the ONNX file gives to each image of the split."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    classes = [
        np.asarray(session.run([OUTPUT_NAME], {INPUT_NAME: as_input(images)})[0]).argmax(axis=1)
        for images in np.array_split(split.images, max(1, len(split) // _BATCH_SIZE))
    ]
    return np.concatenate(classes).astype(np.int64)


def stored_parameter_count(path: Path) -> int:
    """Count the numbers in the ONNX file's initializers."""
    return sum(math.prod(tensor.dims) for tensor in onnx.load(path).graph.initializer)
