"""A network trained with fake quantization runs in integers, and the same, on both runtimes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from packhorse_agent.contract.manifest import RuntimeRequirement, TensorSpec
from packhorse_agent.contract.recipe import QatWi8Ai8, StaticWi8Ai8
from packhorse_agent.runtime.golden import worst_sqnr_db
from packhorse_host.convert.convert import float_model
from packhorse_host.convert.environments import ENVIRONMENTS
from packhorse_host.convert.errors import ConversionFailedError
from packhorse_host.convert.processes import run_program
from packhorse_host.convert.replay import replay_on
from packhorse_host.convert.sources import recognise
from packhorse_host.evaluate.runner import open_session
from packhorse_host.evaluate.samples import ArraySamples
from packhorse_host.quantize import emit_executorch, emit_onnxruntime
from packhorse_host.quantize.emit_torch import silently
from packhorse_host.quantize.graph import Architecture, KernelCounts, count_kernels
from packhorse_host.quantize.source import read_source

ROOT = Path(__file__).parents[4]
MAKER = Path(__file__).parent / "make_trained.py"
IMAGE = TensorSpec(name="image", datatype="FP32", shape=(1, 1, 8, 8))
SCORES = TensorSpec(name="scores", datatype="FP32", shape=(1, 2))

pytestmark = [pytest.mark.conversions, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    environment = ENVIRONMENTS["torch"]
    if not environment.is_built and os.environ.get("PACKHORSE_BUILD_TOOLS") != "1":
        pytest.skip("the tool environment torch is not built (scripts/walk_conversions builds it)")
    folder = tmp_path_factory.mktemp("trained")
    paths = f"{ROOT / 'host'}:{ROOT / 'agent'}"
    command = [str(environment.ensure(silently)), str(MAKER), str(folder)]
    variables = {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": paths}
    ended = run_program(command, folder=folder, variables=variables, timeout_s=600)
    assert ended.code == 0, ended.output
    return folder


def test_both_runtimes_run_it_in_integers_and_agree(trained: Path) -> None:
    images = np.random.default_rng(2).normal(size=(16, 1, 8, 8)).astype(np.float32)
    source = read_source(trained / "trained.onnx")
    model = emit_onnxruntime.emit(source, QatWi8Ai8(), None)
    assert count_kernels(model, Architecture.AARCH64).integer == 2
    requirement = RuntimeRequirement(name="onnxruntime", minimum_version="1.20", threads=1)
    session = open_session(model, requirement, source.inputs, source.outputs)
    here = np.concatenate([session.run({"image": image[None]})["scores"] for image in images])
    program = (trained / "trained.pte").read_bytes()
    there = replay_on("executorch", program, [IMAGE], [SCORES], {"image": images}, silently)
    figure = worst_sqnr_db({"scores": here}, there)
    assert figure is None or figure > 25
    assert emit_executorch.count_integer_kernels(program) == KernelCounts(2, 2)


def test_the_program_is_packed_as_it_is_and_never_quantized_twice(trained: Path) -> None:
    model = float_model(recognise(trained / "trained.pt2"), "executorch", silently)
    assert emit_executorch.emit(model, QatWi8Ai8(), None).kernels == KernelCounts(2, 2)
    images = ArraySamples({model.inputs[0].name: np.zeros((4, 1, 8, 8), np.float32)})
    with pytest.raises(ConversionFailedError, match="never quantized twice"):
        emit_executorch.emit(model, StaticWi8Ai8(), images)
