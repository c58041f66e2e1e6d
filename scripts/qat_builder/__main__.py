"""Trains hard variants of the sample with fake quantization and prints what that brings."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from packhorse_agent.contract.manifest import RuntimeRequirement
from packhorse_agent.contract.recipe import QatWi8Ai8, StaticWi8Ai8
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.convert.environments import ENVIRONMENTS
from packhorse_host.convert.processes import run_program
from packhorse_host.convert.replay import replay_on
from packhorse_host.evaluate.runner import open_session, run_all
from packhorse_host.evaluate.samples import ArraySamples
from packhorse_host.quantize.emit_onnxruntime import emit
from packhorse_host.quantize.graph import Architecture, count_kernels
from packhorse_host.quantize.prepare import prepare
from packhorse_host.quantize.source import SourceModel, read_source
from packhorse_host.quantize.transform.equalize import equalize
from variants_builder.hard import make_hard
from variants_builder.measure import SAMPLE, Data, as_source, read_data

ROOT = Path(__file__).parents[2]
TRAINING_TIMEOUT_S = 3600.0


def main() -> None:
    """Train each variant that is asked for."""
    options = _options().parse_args()
    data = read_data(options.every)
    print(f"{'spread':>6}  {'model':<34} {'top-1 %':>8} {'drop':>7}  integer kernels", flush=True)
    for spread_log2 in options.spread:
        hard = as_source(make_hard(onnx.load(SAMPLE / "model.onnx"), spread_log2, seed=0))
        with tempfile.TemporaryDirectory(prefix="packhorse-") as folder:
            start = hard if options.plain else as_source(equalize(prepare(hard)))
            _train(start, options.data, Path(folder), options.steps)
            _report(spread_log2, hard, Path(folder), data)


def _train(start: SourceModel, data: Path, folder: Path, steps: int) -> None:
    python = ENVIRONMENTS["torch"].ensure(_say)
    (folder / "start.onnx").write_bytes(start.data)
    paths = ":".join(str(ROOT / name) for name in ("scripts", "host", "agent"))
    ended = run_program(
        [str(python), "-m", "qat_builder.training",
         str(folder / "start.onnx"), str(data.resolve()), str(folder), str(steps)],
        folder=folder,
        variables={"CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": paths},
        timeout_s=TRAINING_TIMEOUT_S,
        on_line=lambda line: _say(line) if line.startswith("step") else None,
    )  # fmt: skip
    if ended.code != 0:
        sys.exit(f"training failed: {ended.output[-2000:]}")


def _report(spread_log2: float, hard: SourceModel, folder: Path, data: Data) -> None:
    trained = read_source(folder / "qat.onnx")
    plain = emit(hard, StaticWi8Ai8(), data.calibration)
    equalized = emit(hard, StaticWi8Ai8(equalize=True), data.calibration)
    passed = emit(trained, QatWi8Ai8(), None)
    reference = _top1_percent(_on_onnxruntime(hard.data, hard, data), data)
    rows = [
        ("fp32", None, reference),
        ("static_wi8_ai8", plain, _top1_percent(_on_onnxruntime(plain, hard, data), data)),
        ("static_wi8_ai8, equalized", equalized, _top1_percent(_on_onnxruntime(equalized, hard, data), data)),
        ("qat_wi8_ai8, ONNX Runtime", passed, _top1_percent(_on_onnxruntime(passed, trained, data), data)),
        ("qat_wi8_ai8, ExecuTorch", None, _top1_percent(_on_executorch(folder, hard, data), data)),
    ]
    for name, model, top1_percent in rows:
        kernels = count_kernels(model, Architecture.AARCH64) if model else None
        counted = f"{kernels.integer} of {kernels.compute}" if kernels else ""
        drop = reference - top1_percent
        print(f"{spread_log2:>6g}  {name:<34} {top1_percent:>8.2f} {drop:>7.2f}  {counted}", flush=True)


def _on_onnxruntime(model: bytes, source: SourceModel, data: Data) -> Array:
    requirement = RuntimeRequirement(
        name="onnxruntime", minimum_version="1.20", threads=len(os.sched_getaffinity(0))
    )
    session = open_session(model, requirement, source.inputs, source.outputs)
    batch = 1 if source.one_at_a_time else 100
    return run_all(session, ArraySamples({"image": data.images}), batch, ["logits"])["logits"]


def _on_executorch(folder: Path, source: SourceModel, data: Data) -> Array:
    inputs = [spec.model_copy(update={"shape": (1, *spec.shape[1:])}) for spec in source.inputs]
    outputs = [spec.model_copy(update={"shape": (1, *spec.shape[1:])}) for spec in source.outputs]
    program = (folder / "qat.pte").read_bytes()
    return replay_on("executorch", program, inputs, outputs, {"image": data.images}, _say)["logits"]


def _top1_percent(logits: Array, data: Data) -> float:
    return 100 * float(np.mean(logits.argmax(axis=1) == data.labels))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/qat_sample", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the four .gz files of Fashion-MNIST"
    )
    parser.add_argument(
        "--spread", type=float, nargs="+", default=[0.0, 6.0], metavar="R",
        help="expansion channels are multiplied by 2^U(-R, R) (default: 0 6)",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=400, help="of 128 images each (default: 400)")
    parser.add_argument(
        "--plain", action="store_true", help="train the variant as it is; by default it is equalized first"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one evaluation image of N only")
    return parser


if __name__ == "__main__":
    main()
