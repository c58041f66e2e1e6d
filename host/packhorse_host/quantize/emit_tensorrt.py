"""ONNX models for TensorRT, which builds its engine from them on the device.

TensorRT 11 builds strongly typed networks only and has no calibration of its own, and 10 can do the same:
every type and every rounding stands in the graph. INT8 is explicit Q/DQ pairs, signed and symmetric, and
weights that are integers already; half precision is a graph in half precision. Biases stay float, and so does
all that gets no pair (see `tensorrt_graph`), such as the probabilities at the end.

The pairs say exactly what is rounded and to which steps, so ONNX Runtime gives the answers that an engine
gives, but for the order in which floats are added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import onnx

from packhorse_agent.contract.recipe import Fp32, MixedWi8Ai8, Recipe, StaticWi8Ai8
from packhorse_host.errors import PackhorseError
from packhorse_host.evaluate.samples import Samples
from packhorse_host.quantize.calibrate.collect import collect_ranges
from packhorse_host.quantize.delicate import final_probabilities, masking
from packhorse_host.quantize.emit_onnxruntime import CALIBRATION_BATCH
from packhorse_host.quantize.errors import CalibrationNeededError, ModelError, UnsupportedRecipeError
from packhorse_host.quantize.graph import KernelCounts
from packhorse_host.quantize.half import halve
from packhorse_host.quantize.prepare import compact, prepare, unshare_weights
from packhorse_host.quantize.source import SourceModel
from packhorse_host.quantize.tensorrt_graph import OPERATORS, count_quantized, place_pairs
from packhorse_host.quantize.tensorrt_pairs import insert_pairs, with_biases
from packhorse_host.quantize.transform.bias import correct_bias
from packhorse_host.quantize.transform.equalize import equalize

StaticRecipe = StaticWi8Ai8 | MixedWi8Ai8

NOTES: Final = (
    "kernels are counted by the Q/DQ pairs in the graph: which ones an engine has, its builder decides on "
    "the device",
    "answers and latency are those of ONNX Runtime with the same graph on this machine's processor",
)
"""What a person should know about evidence for TensorRT from a machine without it."""

UNFIT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "dynamic_wi8_afp32": "its scales are constants: activations cannot be measured as they come",
        "static_wi8_ai16": "it has no integer kernels for 16 bits; static_wi8_ai8 and fp16 are the nearest",
        "weight_only_wi8_afp32": "its kernels take 8-bit weights with 8-bit activations only; "
        "static_wi8_ai8 and fp16 are the nearest",
        "weight_only_wi4_afp32": "its kernels for 4-bit weights multiply in half precision and serve large "
        "language models; fp16 is the nearest",
        "qat_wi8_ai8": "pairs that training made are not checked for what TensorRT takes (signed, zero "
        "points of 0); pack the trained model for onnxruntime",
    }
)
"""Recipes that are not to be had, and why."""


def emit(source: SourceModel, recipe: Recipe, calibration: Samples | None) -> bytes:
    """Quantize by a recipe; the result is a serialized ONNX model with the source's inputs and outputs.

    Args:
        source: a float model.
        recipe: fp32, fp16, static_wi8_ai8 or mixed_wi8_ai8.
        calibration: for the last two.

    Raises:
        CalibrationNeededError: the recipe needs calibration and there is none.
        UnsupportedRecipeError: TensorRT cannot have the recipe, or an option of it; the text says why.
        ActivationError: the float model makes NaN or infinity of the calibration data.
        ModelError: the model does not quantize, is quantized already, or is not where the recipe says so.
    """
    _check_fit(recipe)
    if source.quantized or count_kernels(source.data).conversions:
        raise ModelError(
            f"recipe {recipe.name} wants a float model, and this one is quantized already; "
            "start from the float model, or pack this one for onnxruntime with --recipe qat_wi8_ai8"
        )
    if isinstance(recipe, Fp32):
        return source.data
    try:
        model = prepare(source)
        if isinstance(recipe, StaticRecipe):
            return compact(_static(recipe, source, model, calibration))
        return compact(halve(model))
    except (OSError, PackhorseError):
        raise
    except Exception as error:  # whatever a converter of graphs raises on a graph it does not expect
        raise ModelError(f"the model does not become one for TensorRT: {error}") from error


def count_kernels(model: bytes) -> KernelCounts:
    """Nodes of a serialized model that compute, and those with pairs; see `NOTES`."""
    return count_quantized(onnx.load_model_from_string(model))


def _check_fit(recipe: Recipe) -> None:
    reason = UNFIT.get(recipe.name)
    if reason is not None:
        raise UnsupportedRecipeError(f"tensorrt cannot have recipe {recipe.name}: {reason}")
    wrong = [text for is_wrong, text in _option_rules(recipe) if is_wrong]
    if wrong:
        raise UnsupportedRecipeError(f"recipe {recipe.name} on TensorRT: {'; '.join(wrong)}")


def _option_rules(recipe: Recipe) -> Iterator[tuple[bool, str]]:
    if isinstance(recipe, StaticRecipe):
        yield recipe.weight_type != "int8", "weights are int8, its kernels know no other"
        yield recipe.activation_type != "int8", "activations are int8, its kernels know no other"
        yield not recipe.symmetric_activations, "it has no zero points: symmetric_activations is needed"
        yield recipe.reduce_range, "reduce_range is for processors whose products saturate"
        unknown = sorted(set(recipe.operators or ()) - OPERATORS)
        yield bool(unknown), f"operators {', '.join(unknown)}: there are {', '.join(sorted(OPERATORS))}"


def _static(recipe: StaticRecipe, source: SourceModel, model: Any, calibration: Samples | None) -> Any:
    if calibration is None:
        raise CalibrationNeededError(f"recipe {recipe.name} needs calibration data")
    if recipe.equalize:
        model = equalize(model)
    operators = recipe.operators or tuple(OPERATORS)
    excluded = _excluded(recipe, model.graph)
    unshare_weights(model, operators, excluded)
    placement = place_pairs(model, operators, excluded)
    batch = 1 if source.one_at_a_time else CALIBRATION_BATCH
    ranges = collect_ranges(
        model,
        placement.ranges,
        calibration,
        recipe.calibration,
        recipe.percentile,
        batch=batch,
        symmetric=True,
    )
    if recipe.correct_bias:
        with_biases(model, placement)
    quantized = insert_pairs(model, placement, ranges, per_channel=recipe.per_channel)
    return correct_bias(model, quantized, calibration, batch=batch) if recipe.correct_bias else quantized


def _excluded(recipe: StaticRecipe, graph: Any) -> list[str]:
    floats = recipe.float_nodes if isinstance(recipe, MixedWi8Ai8) else ()
    missing = set(floats) - {node.name for node in graph.node}
    if missing:
        raise ModelError(
            f"recipe {recipe.name} leaves nodes in floating point that this model does not have: "
            f"{', '.join(sorted(missing)[:5])}"
        )
    return [*final_probabilities(graph), *masking(graph), *floats]
