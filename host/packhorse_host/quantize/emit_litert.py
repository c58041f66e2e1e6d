"""`.tflite` models for LiteRT and tflite-runtime, quantized by ai-edge-quantizer.

Inputs and outputs keep their names and float types. What the quantizer does without a word is found out here:
a model that it passes through unchanged, one that grows, one that answers the same to everything.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from packhorse_agent.contract.manifest import RuntimeRequirement
from packhorse_agent.contract.profile import RuntimeName
from packhorse_agent.contract.recipe import (
    CalibrationMethod,
    DynamicWi8Afp32,
    Fp16,
    Fp32,
    MixedWi8Ai8,
    QatWi8Ai8,
    Recipe,
    StaticWi8Ai8,
    StaticWi8Ai16,
    WeightOnlyWi4Afp32,
    WeightOnlyWi8Afp32,
)
from packhorse_agent.runtime.base import open_model
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.convert.model import FloatModel
from packhorse_host.errors import EnvironmentFaultError
from packhorse_host.evaluate.samples import Samples
from packhorse_host.evaluate.vectors import synthesized
from packhorse_host.quantize.errors import (
    CalibrationNeededError,
    ModelError,
    UnsupportedRecipeError,
    UselessQuantizationError,
)
from packhorse_host.quantize.litert_graph import (
    is_quantized,
    nodes,
    read_graph,
    sign,
    signature_names,
    widen_half_weights,
    write_graph,
)

StaticRecipe = StaticWi8Ai8 | StaticWi8Ai16 | MixedWi8Ai8

OPERATORS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Conv": ("CONV_2D", "CONV_2D_TRANSPOSE", "DEPTHWISE_CONV_2D"),
        "Gather": ("EMBEDDING_LOOKUP",),
        "Gemm": ("FULLY_CONNECTED",),
        "MatMul": ("BATCH_MATMUL", "FULLY_CONNECTED"),
    }
)
"""Operators as recipes name them → as ai-edge-quantizer does, those whose weights it quantizes."""

UNFIT: Final[Mapping[RuntimeName, Mapping[str, str]]] = MappingProxyType(
    {
        "litert": MappingProxyType({}),
        "tflite-runtime": MappingProxyType(
            {
                "dynamic_wi8_afp32": "tflite-runtime 2.14 gives wrong answers without a word where weights "
                "have a scale per channel and activations are floats",
                "weight_only_wi4_afp32": "tflite-runtime 2.14 does not load 4-bit weights",
            }
        ),
    }
)
"""Runtime → recipes that it does not run rightly, and why; `convert.replay` shows it again."""

_HALF_OPERATORS: Final = (
    "CONV_2D", "CONV_2D_TRANSPOSE", "DEPTHWISE_CONV_2D", "EMBEDDING_LOOKUP", "FULLY_CONNECTED",
)  # fmt: skip
_PROBES: Final = 8
"""Inputs that the result is tried on."""


def emit(source: FloatModel, recipe: Recipe, calibration: Samples | None) -> bytes:
    """Quantize by a recipe; the result is a `.tflite` file with the source's inputs and outputs.

    Raises:
        CalibrationNeededError: the recipe needs calibration and there is none.
        EnvironmentFaultError: ai-edge-quantizer is not installed.
        ModelError: the model does not quantize.
        UnsupportedRecipeError: the recipe, or an option of it, is not to be had on this runtime.
        UselessQuantizationError: what came out is no smaller, not quantized, or answers nonsense.
    """
    _check_fit(source, recipe)
    model = read_graph(source.data)
    if isinstance(recipe, QatWi8Ai8):
        return _passed_through(source, model)
    if is_quantized(model):
        raise ModelError(
            "the model is quantized already and is never quantized twice: "
            "--recipe qat_wi8_ai8 packs it as it is, with evidence; or start from the float model"
        )
    if isinstance(recipe, Fp32):
        return source.data
    widened = widen_half_weights(model)
    signed = signature_names(model) is not None
    if not signed:
        sign(model)
    result = _quantized(write_graph(model) if widened or not signed else source.data, recipe, calibration)
    check_useful(source, result, recipe, calibration)
    return result


def check_useful(source: FloatModel, result: bytes, recipe: Recipe, samples: Samples | None) -> None:
    """Hold a quantized model against its source.

    Raises:
        UselessQuantizationError: not smaller, without a quantized weight, or with outputs that are not finite
            or the same for every input.
    """
    quantized = read_graph(result)
    if not (is_quantized(quantized) or isinstance(recipe, Fp16)):
        raise UselessQuantizationError(
            f"recipe {recipe.name} changed nothing: no tensor of the model is an integer afterwards"
        )
    if len(result) >= len(source.data):
        raise UselessQuantizationError(
            f"recipe {recipe.name} does not make the model smaller: {len(source.data)} bytes before, "
            f"{len(result)} after"
        )
    _check_outputs(source, result, recipe, samples)


def node_names(data: bytes) -> tuple[str, ...]:
    """Names of the operators that compute, as `MixedWi8Ai8.float_nodes` takes them for LiteRT."""
    return tuple(node.name for node in nodes(read_graph(data)) if node.computes)


def _check_fit(source: FloatModel, recipe: Recipe) -> None:
    reason = UNFIT.get(source.runtime, {}).get(recipe.name)
    if reason is not None:
        raise UnsupportedRecipeError(f"{source.runtime} cannot have recipe {recipe.name}: {reason}")
    wrong = [text for is_wrong, text in _option_rules(recipe) if is_wrong]
    if wrong:
        raise UnsupportedRecipeError(f"recipe {recipe.name} on LiteRT: {'; '.join(wrong)}")


def _option_rules(recipe: Recipe) -> Iterator[tuple[bool, str]]:
    if isinstance(recipe, StaticRecipe):
        method = recipe.calibration
        yield (
            method is not CalibrationMethod.MINMAX,
            f"calibration by {method.value} is not to be had, only by minmax",
        )
        yield recipe.data_free, "data_free works on ONNX graphs only"
        yield recipe.equalize, "equalize works on ONNX graphs only"
        yield recipe.correct_bias, "correct_bias works on ONNX graphs only"
        yield recipe.weight_type != "int8", "weights are int8, its kernels know no other"
        yield recipe.activation_type.startswith("u"), f"{recipe.activation_type} activations have no kernels"
        yield recipe.reduce_range, "reduce_range is for ONNX Runtime on x86"
        yield recipe.symmetric_activations, "symmetric_activations is not to be had"
    if isinstance(recipe, DynamicWi8Afp32):
        yield bool(recipe.float_nodes), "float_nodes name nodes of an ONNX graph"
    if isinstance(recipe, WeightOnlyWi4Afp32):
        yield recipe.block_size is not None, "blocks are not to be had for weights alone: block_size none"
        yield not recipe.symmetric, "weights are symmetric"
    unknown = sorted(set(getattr(recipe, "operators", None) or ()) - set(OPERATORS))
    yield bool(unknown), f"operators {', '.join(unknown)}: there are {', '.join(OPERATORS)}"


def _passed_through(source: FloatModel, model: Any) -> bytes:
    if not is_quantized(model):
        raise ModelError("recipe qat_wi8_ai8 takes a model that training has quantized; this one is float")
    return source.data


def _quantized(data: bytes, recipe: Recipe, calibration: Samples | None) -> bytes:
    tools = _tools()
    plan = _plan(tools, recipe)
    try:
        with _quietly():
            ranges = None
            if isinstance(recipe, StaticRecipe):
                ranges = _ranges(tools, data, plan, recipe, calibration)
            quantizer = tools.quantizer.Quantizer(data, plan.get_quantization_recipe())
            return bytes(quantizer.quantize(ranges, enable_progress_report=False).quantized_model)
    except (CalibrationNeededError, OSError):
        raise
    except Exception as error:  # whatever a quantizer of graphs raises on a graph it does not expect
        raise ModelError(f"ai-edge-quantizer does not quantize this model with this data: {error}") from error


def _plan(tools: Any, recipe: Recipe) -> Any:
    plan = tools.recipe_manager.RecipeManager()
    sizes = tools.qtyping.QuantGranularity
    if isinstance(recipe, StaticRecipe):
        wanted = _operators(recipe.operators)
        for operator in wanted or ("*",):
            plan.add_static_config(
                ".*", operator,
                activation_num_bits=16 if isinstance(recipe, StaticWi8Ai16) else 8, weight_num_bits=8,
                weight_granularity=sizes.CHANNELWISE if recipe.per_channel else sizes.TENSORWISE,
            )  # fmt: skip
        for edge in ("INPUT", "OUTPUT"):  # applications keep giving and getting floats
            _leave_alone(tools, plan, ".*", edge)
        for name in recipe.float_nodes if isinstance(recipe, MixedWi8Ai8) else ():
            _leave_alone(tools, plan, f"^{re.escape(name)};?$", "*")
    elif isinstance(recipe, DynamicWi8Afp32):
        granularity = sizes.CHANNELWISE if recipe.per_channel else sizes.TENSORWISE
        for operator in _operators(recipe.operators):
            plan.add_dynamic_config(".*", operator, num_bits=8, granularity=granularity)
    elif isinstance(recipe, WeightOnlyWi8Afp32):
        granularity = sizes.CHANNELWISE if recipe.per_channel else sizes.TENSORWISE
        for operator in _operators(recipe.operators):
            plan.add_weight_only_config(".*", operator, num_bits=8, granularity=granularity)
    elif isinstance(recipe, WeightOnlyWi4Afp32):
        for operator in ("FULLY_CONNECTED",):
            plan.add_weight_only_config(".*", operator, num_bits=4, granularity=sizes.CHANNELWISE)
    else:
        _plan_half(tools, plan)
    return plan


def _plan_half(tools: Any, plan: Any) -> None:
    weights = tools.qtyping.TensorQuantizationConfig(num_bits=16, dtype=tools.qtyping.TensorDataType.FLOAT)
    config = tools.qtyping.OpQuantizationConfig(
        weight_tensor_config=weights,
        compute_precision=tools.qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    casting = tools.algorithm_manager.AlgorithmName.FLOAT_CASTING
    for operator in _HALF_OPERATORS:
        plan.add_quantization_config(".*", operator, config, casting)


def _leave_alone(tools: Any, plan: Any, scope: str, operator: str) -> None:
    nothing = tools.algorithm_manager.AlgorithmName.NO_QUANTIZE
    plan.add_quantization_config(scope, tools.qtyping.TFLOperationName(operator), algorithm_key=nothing)


def _operators(names: tuple[str, ...] | None) -> list[str]:
    return sorted({operator for name in names or () for operator in OPERATORS[name]})


def _ranges(
    tools: Any, data: bytes, plan: Any, recipe: StaticRecipe, calibration: Samples | None
) -> Mapping[str, Any]:
    """Smallest and largest value of each tensor; one batch is in memory at a time."""
    if calibration is None:
        raise CalibrationNeededError(f"recipe {recipe.name} needs calibration data")
    signature = signature_names(read_graph(data))
    assert signature is not None  # noqa: S101 (emit signs what has none)
    key, names = signature
    calibrator = tools.calibrator.Calibrator(
        data, num_threads=2, qsv_update_func=tools.qsv_utils.min_max_update
    )
    for feed in calibration.batches(1):
        named = {name: feed[name] if name in feed else feed[own] for name, own in names.items()}
        calibrator.calibrate({key: [named]}, plan)
    ranges: Mapping[str, Any] = calibrator.get_model_qsvs()
    return ranges


def _check_outputs(source: FloatModel, result: bytes, recipe: Recipe, samples: Samples | None) -> None:
    probes = (
        samples.take(range(min(_PROBES, samples.count))) if samples else synthesized(source.inputs, _PROBES)
    )
    if probes is None:
        return
    feeds = list(probes.batches(1))
    before, after = _answers(source, source.data, feeds), _answers(source, result, feeds)
    for name, quantized in after.items():
        if not np.isfinite(quantized).all():
            raise UselessQuantizationError(f"recipe {recipe.name}: output {name} holds NaN or infinity")
        if _is_constant(quantized) and not _is_constant(before[name]):
            raise UselessQuantizationError(f"recipe {recipe.name}: output {name} is the same for every input")


def _answers(source: FloatModel, data: bytes, feeds: list[dict[str, Array]]) -> dict[str, Array]:
    requirement = RuntimeRequirement(name="litert", minimum_version="2.1", threads=1)
    with tempfile.TemporaryDirectory(prefix="packhorse-") as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(data)
        session = open_model(path, requirement, source.inputs, source.outputs)
        results = [session.run(feed) for feed in feeds]
    return {name: np.stack([result[name] for result in results]) for name in results[0]}


def _is_constant(answers: Array) -> bool:
    return len(answers) > 1 and bool((answers == answers[:1]).all())


class _Tools:
    """ai-edge-quantizer, imported when it is needed."""

    def __init__(self) -> None:
        from ai_edge_quantizer import algorithm_manager, calibrator, qtyping, quantizer, recipe_manager
        from ai_edge_quantizer.utils import qsv_utils

        self.algorithm_manager, self.calibrator, self.qtyping = algorithm_manager, calibrator, qtyping
        self.quantizer, self.recipe_manager, self.qsv_utils = quantizer, recipe_manager, qsv_utils


def _tools() -> _Tools:
    try:
        return _Tools()
    except ImportError as error:
        raise EnvironmentFaultError(
            "quantizing for LiteRT needs ai-edge-quantizer: pip install 'packhorse[litert-pack]'"
        ) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the library's progress bars and its warnings to its own developers."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
