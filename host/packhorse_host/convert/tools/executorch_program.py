"""An exported program → `.pte`, quantized by torchao (PT2E) and lowered to XNNPACK.

Request: `program` (a file of torch.export), `recipe`, `calibration` (a folder of `.npy` files in the order of
the inputs, or null), `inputs` and `outputs` (as a manifest describes them), `agent`, `model`, `probes` (an
`.npz`), `expected` and `answers` (files to write).
Answer: `integer` and `compute` (kernels), `float_bytes` (length of the float model, lowered alike).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .executorch_kernels import count_kernels
from .refusal import RefusedByTool
from .torch_program import (
    calibration,
    check_kind,
    device_answers,
    float_answers,
    float_nodes,
    load_program,
)

_PACKETS = {
    "Add": ("add", "add_"),
    "Concat": ("cat",),
    "Conv": ("conv1d", "conv2d", "conv_transpose2d"),
    "Gemm": ("linear",),
    "GlobalAveragePool": ("adaptive_avg_pool2d",),
    "MatMul": ("linear",),
    "Mul": ("mul", "mul_"),
}
"""Operators as recipes name them → as torch does, those that XNNPACKQuantizer knows."""


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Quantize, lower, and try the result on ExecuTorch itself."""
    program = load_program(request["program"])
    recipe = request["recipe"]
    check_kind(program, recipe["name"])
    float_answers(program, request)
    lowered = lower(_quantized(program, recipe, request))
    Path(request["model"]).write_bytes(lowered)
    device_answers(request, "executorch")
    is_float = recipe["name"] in ("fp32", "qat_wi8_ai8")
    float_bytes = len(lowered if is_float else lower(load_program(request["program"])))
    return {**count_kernels(lowered), "float_bytes": float_bytes}


def _quantized(program: Any, recipe: Mapping[str, Any], request: Mapping[str, Any]) -> Any:
    if recipe["name"] == "qat_wi8_ai8":
        return program
    pooled = _with_pools(program.module())
    if recipe["name"] == "fp32":
        return _exported(pooled, program)
    if recipe["name"] == "fp16":
        return _exported(_halved(pooled), program)
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    names = [spec["name"] for spec in request["inputs"]]
    prepared = prepare_pt2e(
        pooled, _quantizer(recipe, float_nodes(pooled.graph, recipe.get("float_nodes", ())))
    )
    if request["calibration"]:
        for sample in calibration(request["calibration"], names):
            prepared(*sample)
    else:  # dynamic: observers of weights look at them when the module runs
        prepared(*program.example_inputs[0])
    return _exported(convert_pt2e(prepared), program)


def _exported(module: Any, program: Any) -> Any:
    import torch

    return torch.export.export(module, program.example_inputs[0])


def _quantizer(recipe: Mapping[str, Any], floats: frozenset[str]) -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer

    chosen = _targets(recipe["operators"])

    def wanted(node: Any) -> bool:
        packet = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
        return node.name not in floats and (chosen is None or packet in chosen or packet not in _ALL_PACKETS)

    quantizer = XNNPACKQuantizer().set_global(_configuration(recipe))
    quantizer.set_filter_function(wanted)
    return quantizer


_ALL_PACKETS = frozenset(packet for packets in _PACKETS.values() for packet in packets)


def _targets(operators: list[str] | None) -> frozenset[str] | None:
    if operators is None:
        return None
    unknown = sorted(set(operators) - set(_PACKETS))
    if unknown:
        raise RefusedByTool(f"operators {', '.join(unknown)}: there are {', '.join(_PACKETS)}")
    return frozenset(packet for operator in operators for packet in _PACKETS[operator])


def _configuration(recipe: Mapping[str, Any]) -> Any:
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import get_symmetric_quantization_config
    from torchao.quantization.pt2e.observer import HistogramObserver, MinMaxObserver

    dynamic = recipe["name"] == "dynamic_wi8_afp32"
    configuration = get_symmetric_quantization_config(
        is_per_channel=recipe["per_channel"], is_dynamic=dynamic
    )
    if dynamic:
        return configuration
    observer: Callable[..., Any] = {"minmax": MinMaxObserver, "mse": HistogramObserver}[recipe["calibration"]]
    scheme = torch.per_tensor_symmetric if recipe["symmetric_activations"] else torch.per_tensor_affine
    activations = dataclasses.replace(
        configuration.input_activation,
        qscheme=scheme,
        observer_or_fake_quant_ctr=observer.with_args(eps=2**-12),  # type: ignore[attr-defined]
    )
    return dataclasses.replace(configuration, input_activation=activations, output_activation=activations)


def lower(program: Any) -> bytes:
    """The `.pte` file of an exported program, for XNNPACK as far as it goes.

    Raises:
        RefusedByTool: ExecuTorch does not take the program.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
        XnnpackDynamicallyQuantizedPartitioner,
        XnnpackPartitioner,
    )
    from executorch.exir import to_edge_transform_and_lower

    # what is quantized on the fly goes first: the other one would take such operators in floating point
    parts = [XnnpackDynamicallyQuantizedPartitioner(), XnnpackPartitioner()]
    try:
        data: bytes = to_edge_transform_and_lower(program, partitioner=parts).to_executorch().buffer
    except Exception as error:  # whatever a compiler raises on a graph that it does not expect
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise RefusedByTool(f"ExecuTorch does not lower the model: {first[0][:500]}") from error
    return bytes(data)


def _with_pools(module: Any) -> Any:
    """Means over both axes of an image as pooling, which XNNPACK takes and its quantizer knows."""
    import torch

    operators = torch.ops.aten
    for node in list(module.graph.nodes):
        if node.target is not operators.mean.dim or not _is_over_image(node):
            continue
        with module.graph.inserting_before(node):
            pooled = module.graph.call_function(operators.adaptive_avg_pool2d.default, (node.args[0], [1, 1]))
            keeps = len(node.args) > 2 and node.args[2]
            shape = list(node.meta["val"].shape)
            flat = pooled if keeps else module.graph.call_function(operators.view.default, (pooled, shape))
        node.replace_all_uses_with(flat)
        module.graph.erase_node(node)
    module.recompile()
    return module


def _is_over_image(node: Any) -> bool:
    value = node.args[0].meta.get("val")
    if value is None or value.dim() != 4 or node.kwargs or "val" not in node.meta or not node.args[1]:
        return False
    return {axis % 4 for axis in node.args[1]} == {2, 3}


def _halved(module: Any) -> Any:
    """In half precision inside; inputs and outputs keep their type."""
    import torch

    class Halved(torch.nn.Module):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module.half()

        def forward(self, *inputs: Any) -> Any:
            halves = [value.half() if value.dtype == torch.float32 else value for value in inputs]
            answers = self.inner(*halves)
            listed = answers if isinstance(answers, list | tuple) else [answers]
            return tuple(value.float() if value.dtype == torch.float16 else value for value in listed)

    for node in list(module.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":  # it checks for inputs of full precision
            module.graph.erase_node(node)
    module.recompile()
    return Halved()
