"""Keras files and SavedModels → `.tflite` by TensorFlow's converter, or → ONNX by tf2onnx.

Request: `kind`, `path`, `to` (tflite or onnx), `model` and `vectors` (files to write).
Answer: nothing but that it is done; names come with the model.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .arrays import example, save_vectors
from .refusal import RefusedByTool

OPSET = 17


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Convert through a SavedModel, the one form that both converters take."""
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        folder = request["path"]
        if request["kind"] == "keras":
            folder = _saved(request["path"], str(Path(scratch) / "saved"))
        names = _save_reference(folder, request["vectors"])
        if request["to"] == "tflite":
            _to_tflite(folder, request["model"])
        else:
            _to_onnx(folder, request["model"])
    return names


def _saved(path: str, folder: str) -> str:
    import keras

    try:
        # safe_mode: a Lambda layer in the file is somebody's Python code
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        model.export(folder, verbose=False)
    except Exception as error:  # keras raises anything on a file that it did not write
        raise RefusedByTool(f"Keras does not load or export the model: {error}") from error
    return folder


def _save_reference(folder: str, path: str) -> dict[str, Any]:
    import tensorflow

    try:
        loaded = tensorflow.saved_model.load(folder)
        signature = loaded.signatures["serving_default"]
    except (KeyError, OSError, ValueError) as error:
        raise RefusedByTool(f"no SavedModel with a `serving_default` signature: {error}") from error
    specs = signature.structured_input_signature[1]
    inputs = {name: example(_described(name, spec), seed) for seed, (name, spec) in enumerate(specs.items())}
    outputs = signature(**{name: tensorflow.constant(array) for name, array in inputs.items()})
    save_vectors(path, inputs, {name: tensor.numpy() for name, tensor in outputs.items()})
    return {"inputs": list(inputs), "outputs": list(outputs)}


def _described(name: str, spec: Any) -> Mapping[str, Any]:
    datatypes = {
        "bool": "BOOL", "uint8": "UINT8", "int8": "INT8", "int16": "INT16", "int32": "INT32",
        "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    }  # fmt: skip
    if spec.dtype.name not in datatypes or spec.shape.rank is None:
        raise RefusedByTool(f"input {name} is {spec.dtype.name} of shape {spec.shape}")
    free = [axis for axis, length in enumerate(spec.shape) if length is None and axis > 0]
    if free:
        raise RefusedByTool(f"input {name} has a free axis {free[0]} besides the batch: fix its length")
    shape = [-1 if length is None else length for length in spec.shape]
    return {"name": name, "datatype": datatypes[spec.dtype.name], "shape": shape}


def _to_tflite(folder: str, target: str) -> None:
    import tensorflow

    try:
        model = tensorflow.lite.TFLiteConverter.from_saved_model(folder).convert()
    except Exception as error:  # the converter's exceptions are its own, and change
        raise RefusedByTool(f"TFLiteConverter does not convert the model: {str(error)[:500]}") from error
    Path(target).write_bytes(model)


def _to_onnx(folder: str, target: str) -> None:
    # as a program of its own: tf2onnx holds global state that a second graph trips over
    command = [sys.executable, "-I", "-m", "tf2onnx.convert", "--saved-model", folder, "--output", target]
    ended = subprocess.run(
        [*command, "--opset", str(OPSET)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if ended.returncode != 0 or not Path(target).exists():
        last = ended.stdout.decode(errors="replace").strip().splitlines()[-3:]
        raise RefusedByTool(f"tf2onnx does not convert the model: {' '.join(last)[:500]}")
