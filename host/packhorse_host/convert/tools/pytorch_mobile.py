"""An exported program → `.ptl` for PyTorch Mobile (legacy), quantized by torch.ao for QNNPACK.

Request and answer as of `executorch_program`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .pytorch_mobile_kernels import count_kernels
from .refusal import RefusedByTool
from .torch_modules import PREFIX, as_modules
from .torch_program import calibration, check_kind, device_answers, float_answers, float_nodes, load_program

DESCRIPTION = "packhorse.json"


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Quantize, save for the lite interpreter, and try the result there."""
    import torch

    torch.backends.quantized.engine = "qnnpack"
    program = load_program(request["program"])
    recipe = request["recipe"]
    check_kind(program, recipe["name"])
    float_answers(program, request)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every step is deprecated, and the format is marked legacy
        plain = as_modules(program)
        float_bytes = len(_saved(plain, program, request))
        data = _saved(_quantized(plain, program, recipe, request), program, request)
        Path(request["model"]).write_bytes(data)
        device_answers(request, "pytorch-mobile")
        return {**count_kernels(data), "float_bytes": float_bytes}


def _quantized(module: Any, program: Any, recipe: Mapping[str, Any], request: Mapping[str, Any]) -> Any:
    import torch
    from torch.ao.quantization import default_dynamic_qconfig, per_channel_dynamic_qconfig, quantize_dynamic

    if recipe["name"] == "fp32":
        return module
    if recipe["name"] == "dynamic_wi8_afp32":
        per_channel = recipe["per_channel"]
        chosen = per_channel_dynamic_qconfig if per_channel else default_dynamic_qconfig
        layers = {
            name: chosen
            for name, layer in module.named_modules()
            if isinstance(layer, torch.nn.Linear) and name not in _floats(program, recipe)
        }
        return quantize_dynamic(module, layers)
    return _static(module, program, recipe, request)


def _static(module: Any, program: Any, recipe: Mapping[str, Any], request: Mapping[str, Any]) -> Any:
    from torch.ao.quantization import QConfigMapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    mapping = QConfigMapping().set_global(_configuration(recipe))
    for name in _floats(program, recipe):
        mapping.set_module_name(name, None)
    try:
        prepared = prepare_fx(module, mapping, program.example_inputs[0])
        for sample in calibration(request["calibration"], [spec["name"] for spec in request["inputs"]]):
            prepared(*sample)
        return convert_fx(prepared)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise RefusedByTool(f"torch.ao does not quantize the model: {first[0][:500]}") from error


def _floats(program: Any, recipe: Mapping[str, Any]) -> frozenset[str]:
    """Modules that stay in floating point."""
    return frozenset(PREFIX + name for name in float_nodes(program.graph, recipe.get("float_nodes", ())))


def _configuration(recipe: Mapping[str, Any]) -> Any:
    import torch
    from torch.ao.quantization import (
        HistogramObserver,
        MinMaxObserver,
        PerChannelMinMaxObserver,
        QConfig,
    )

    observer: Any = {"minmax": MinMaxObserver, "mse": HistogramObserver}[recipe["calibration"]]
    symmetric = recipe["symmetric_activations"]
    activations = observer.with_args(
        dtype=torch.quint8,
        qscheme=torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine,
        reduce_range=False,
    )
    if recipe["per_channel"]:
        scheme = torch.per_channel_symmetric
        return QConfig(activations, PerChannelMinMaxObserver.with_args(dtype=torch.qint8, qscheme=scheme))
    return QConfig(
        activations, MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
    )


def _saved(module: Any, program: Any, request: Mapping[str, Any]) -> bytes:
    import torch

    description = {"inputs": request["inputs"], "outputs": request["outputs"]}
    with torch.no_grad():
        try:
            traced: Any = torch.jit.trace(module, program.example_inputs[0], check_trace=False)
            traced = torch.jit.freeze(traced)  # one class instead of one a layer: half of a small file
        except RuntimeError as error:
            first = str(error).strip().splitlines()
            raise RefusedByTool(f"TorchScript does not trace the model: {first[0][:500]}") from error
    extra = {DESCRIPTION: json.dumps(description).encode()}
    data: bytes = traced._save_to_buffer_for_lite_interpreter(_extra_files=extra)
    return bytes(data)
