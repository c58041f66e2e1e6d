"""What the emitters for ExecuTorch and PyTorch Mobile have in common: a tool process, and what is held after.

torch and ExecuTorch live in a tool environment. An exported program goes there with the recipe and, on the
disk, the calibration data; a model comes back with its kernels counted and the answers that the device's own
runtime module gave.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.contract.recipe import CalibrationMethod, MixedWi8Ai8, Recipe, StaticWi8Ai8
from packhorse_agent.runtime.datatypes import DTYPES, Array
from packhorse_agent.runtime.golden import worst_sqnr_db
from packhorse_host.convert.building import Progress
from packhorse_host.convert.environments import ENVIRONMENTS
from packhorse_host.convert.model import FloatModel
from packhorse_host.convert.replay import agent_folder
from packhorse_host.evaluate.samples import Samples
from packhorse_host.evaluate.vectors import FP32_SQNR_MIN_DB, synthesized
from packhorse_host.quantize.errors import (
    CalibrationNeededError,
    ModelError,
    UnsupportedRecipeError,
    UselessQuantizationError,
)
from packhorse_host.quantize.graph import KernelCounts

FP16_SQNR_MIN_DB: Final = 40.0
"""Half precision reaches about 60 dB; sums of many terms lose some of it."""

_PROBES: Final = 8


@dataclass(frozen=True)
class Emitted:
    """A model for a device, with what is known of it."""

    data: bytes
    kernels: KernelCounts
    sqnr_db: float | None
    """Against the float program, on the runtime itself; None where they are the same."""


def silently(text: str) -> None:
    """Progress that nobody hears."""


def check_options(recipe: Recipe, runtime: str, activations: str) -> None:
    """Refuse the options that neither of the two runtimes has.

    Raises:
        UnsupportedRecipeError: names each of them.
    """
    wrong = [text for is_wrong, text in _option_rules(recipe, activations) if is_wrong]
    if wrong:
        raise UnsupportedRecipeError(f"recipe {recipe.name} on {runtime}: {'; '.join(wrong)}")


def _option_rules(recipe: Recipe, activations: str) -> Iterator[tuple[bool, str]]:
    if not isinstance(recipe, StaticWi8Ai8 | MixedWi8Ai8):
        return
    method = recipe.calibration
    known = (CalibrationMethod.MINMAX, CalibrationMethod.MSE)
    yield method not in known, f"calibration by {method.value} is not to be had, only by minmax and mse"
    yield recipe.equalize, "equalize works on ONNX graphs only"
    yield recipe.correct_bias, "correct_bias works on ONNX graphs only"
    yield recipe.weight_type != "int8", "weights are int8, its kernels know no other"
    yield (
        recipe.activation_type != activations,
        f"{recipe.activation_type} activations have no kernels, only {activations}",
    )
    yield recipe.reduce_range, "reduce_range is for ONNX Runtime on x86"


def emit_in_tool(
    tool: str, source: FloatModel, recipe: Recipe, calibration: Samples | None, progress: Progress
) -> Emitted:
    """Quantize and lower in the tool environment, then hold the result against the float program.

    Raises:
        CalibrationNeededError: the recipe needs calibration and there is none.
        ConversionFailedError: the model does not quantize, or is quantized already.
        ModelError: a free axis, so that nothing can be tried.
        ToolEnvironmentError, ToolFailedError: the environment cannot be built, or the tool died.
        UselessQuantizationError: what came out is no smaller, not quantized, or answers nonsense.
    """
    if isinstance(recipe, StaticWi8Ai8 | MixedWi8Ai8) and calibration is None:
        raise CalibrationNeededError(f"recipe {recipe.name} needs calibration data")
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        folder = Path(scratch)
        request = _request(folder, source, recipe, calibration)
        progress(f"quantizing by {recipe.name} for {source.runtime}")
        answer = ENVIRONMENTS["torch"].call(tool, request, progress)
        data = Path(request["model"]).read_bytes()
        expected, answers = _load(folder / "expected.npz"), _load(folder / "answers.npz")
    kernels = KernelCounts(int(answer["integer"]), int(answer["compute"]))
    emitted = Emitted(data, kernels, worst_sqnr_db(expected, answers))
    _check_useful(emitted, recipe, int(answer["float_bytes"]))
    _check_answers(emitted, recipe, expected, answers)
    return emitted


def count_in_tool(tool: str, data: bytes, progress: Progress) -> KernelCounts:
    """Kernels of an emitted model, counted by a tool in the environment."""
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        path = Path(scratch) / "model"
        path.write_bytes(data)
        answer = ENVIRONMENTS["torch"].call(tool, {"model": str(path)}, progress)
    return KernelCounts(int(answer["integer"]), int(answer["compute"]))


def node_names(source: FloatModel, progress: Progress = silently) -> tuple[str, ...]:
    """Names of the nodes that compute, as `MixedWi8Ai8.float_nodes` takes them for these two runtimes."""
    with tempfile.TemporaryDirectory(prefix="packhorse-") as scratch:
        path = Path(scratch) / "program.pt2"
        path.write_bytes(source.data)
        answer = ENVIRONMENTS["torch"].call("torch_nodes", {"program": str(path)}, progress)
    return tuple(answer["nodes"])


def _request(folder: Path, source: FloatModel, recipe: Recipe, calibration: Samples | None) -> dict[str, Any]:
    (folder / "program.pt2").write_bytes(source.data)
    if calibration is not None:
        _write_samples(folder / "calibration", source.inputs, calibration)
    probes = calibration.take(range(min(_PROBES, calibration.count))) if calibration else None
    probes = probes or synthesized(source.inputs, _PROBES)
    if probes is None:
        raise ModelError("the model has a free axis besides the batch: fix its length")
    arrays: Any = probes.arrays
    np.savez(folder / "probes.npz", **arrays)
    return {
        "program": str(folder / "program.pt2"),
        "recipe": recipe.model_dump(mode="json"),
        "calibration": str(folder / "calibration") if calibration is not None else None,
        "inputs": [spec.model_dump(mode="json") for spec in source.inputs],
        "outputs": [spec.model_dump(mode="json") for spec in source.outputs],
        "agent": str(agent_folder()),
        "model": str(folder / "model"),
        "probes": str(folder / "probes.npz"),
        "expected": str(folder / "expected.npz"),
        "answers": str(folder / "answers.npz"),
    }


def _write_samples(folder: Path, specs: Sequence[TensorSpec], samples: Samples) -> None:
    """One `.npy` file for each input, written and later read a sample at a time."""
    folder.mkdir()
    files = [
        np.lib.format.open_memmap(
            folder / f"{index}.npy",
            mode="w+",
            dtype=DTYPES[spec.datatype],
            shape=(samples.count, *spec.shape[1:]),
        )
        for index, spec in enumerate(specs)
    ]
    for at, batch in enumerate(samples.batches(1)):
        for file, spec in zip(files, specs, strict=True):
            file[at] = batch[spec.name][0]
    for file in files:
        file.flush()


def _load(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _check_useful(emitted: Emitted, recipe: Recipe, float_bytes: int) -> None:
    if recipe.name == "fp32":
        return
    if recipe.name != "fp16" and emitted.kernels.integer == 0:
        raise UselessQuantizationError(
            f"recipe {recipe.name} changed nothing: none of {emitted.kernels.compute} kernels is integer"
        )
    if recipe.name != "qat_wi8_ai8" and len(emitted.data) >= float_bytes:
        raise UselessQuantizationError(
            f"recipe {recipe.name} does not make the model smaller: {float_bytes} bytes before, "
            f"{len(emitted.data)} after"
        )


def _check_answers(
    emitted: Emitted, recipe: Recipe, expected: Mapping[str, Array], answers: Mapping[str, Array]
) -> None:
    for name, quantized in answers.items():
        if not np.isfinite(quantized).all():
            raise UselessQuantizationError(f"recipe {recipe.name}: output {name} holds NaN or infinity")
        if _is_constant(quantized) and not _is_constant(expected[name]):
            raise UselessQuantizationError(f"recipe {recipe.name}: output {name} is the same for every input")
    least = {"fp32": FP32_SQNR_MIN_DB, "fp16": FP16_SQNR_MIN_DB}.get(recipe.name)
    if least is not None and emitted.sqnr_db is not None and emitted.sqnr_db < least:
        raise UselessQuantizationError(
            f"recipe {recipe.name}: the lowered model answers differently from the float program: "
            f"{emitted.sqnr_db:.1f} dB, at least {least:.0f} are expected"
        )


def _is_constant(answers: Array) -> bool:
    return len(answers) > 1 and bool((answers == answers[:1]).all())
