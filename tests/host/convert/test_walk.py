"""Every cell of the table of conversions, walked with real models and the real tools.

A cell whose tool environment is not built is skipped by name; `scripts/walk_conversions` builds them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed (packhorse[litert-pack])")

from packhorse_agent.contract.manifest import TensorSpec
from packhorse_agent.contract.profile import RuntimeName
from packhorse_agent.contract.recipe import DynamicWi8Afp32, StaticWi8Ai8
from packhorse_agent.runtime.golden import worst_sqnr_db
from packhorse_host.convert import convert
from packhorse_host.convert.convert import FIDELITY_MIN_DB, float_model
from packhorse_host.convert.environments import ENVIRONMENTS, EnvironmentName
from packhorse_host.convert.errors import ConversionFailedError, UnsupportedConversionError
from packhorse_host.convert.model import FORMATS, FloatModel
from packhorse_host.convert.processes import run_program
from packhorse_host.convert.replay import replay_on
from packhorse_host.convert.sources import Source, SourceKind, recognise
from packhorse_host.convert.table import TABLE, Refused, Works
from packhorse_host.evaluate.samples import ArraySamples
from packhorse_host.quantize.emit_litert import emit

REPOSITORY = Path(__file__).parents[3]
SAMPLE = REPOSITORY / "samples" / "fashion-mnist"
MAKERS = Path(__file__).parent / "makers"
BUILD = "PACKHORSE_BUILD_TOOLS"
IMAGE = (TensorSpec(name="image", datatype="FP32", shape=(-1, 3, 16, 16)),)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def silently(text: str) -> None:
    """Nobody listens."""


def needs(*names: EnvironmentName) -> None:
    """Skip where an environment is not built and nobody asked to build it."""
    for name in names:
        if not ENVIRONMENTS[name].is_built and os.environ.get(BUILD) != "1":
            pytest.skip(f"the tool environment {name} is not built (scripts/walk_conversions builds it)")


def made(maker: str, environment: EnvironmentName, folder: Path) -> Path:
    needs(environment)
    python = ENVIRONMENTS[environment].ensure(print)
    command = [str(python), str(MAKERS / maker), str(folder)]
    ended = run_program(command, folder=folder, variables={"CUDA_VISIBLE_DEVICES": "-1"}, timeout_s=300)
    assert ended.code == 0, ended.output
    return folder


@pytest.fixture(scope="module")
def torch_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made("make_torch.py", "torch", tmp_path_factory.mktemp("torch"))


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made("make_keras.py", "tensorflow", tmp_path_factory.mktemp("keras"))


NET = f"{MAKERS / 'net.py'}:Net"
SOURCES: Mapping[SourceKind, Callable[[pytest.FixtureRequest], list[Source]]] = {
    "onnx": lambda _: [recognise(SAMPLE / "model.onnx")],
    "tflite": lambda _: [recognise(REPOSITORY / "tests" / "data" / "fashion-mnist.tflite")],
    "keras": lambda request: [
        recognise(request.getfixturevalue("keras_files") / name) for name in ("model.keras", "model.h5")
    ],
    "saved-model": lambda request: [recognise(request.getfixturevalue("keras_files") / "saved")],
    "torch-exported": lambda request: [recognise(request.getfixturevalue("torch_files") / "exported.pt2")],
    "torch-module": lambda _: [recognise(Path(NET), inputs=IMAGE)],
    "state-dict": lambda request: [
        recognise(request.getfixturevalue("torch_files") / "weights.pth", reference=NET, inputs=IMAGE)
    ],
    "torch-pickle": lambda request: [
        recognise(
            request.getfixturevalue("torch_files") / "whole.pth", reference=NET, inputs=IMAGE, pickled=True
        )
    ],
}

WORKING = [key for key, cell in TABLE.items() if isinstance(cell, Works)]
REFUSED = [key for key, cell in TABLE.items() if isinstance(cell, Refused)]


@pytest.mark.conversions
@pytest.mark.parametrize(("kind", "runtime"), WORKING, ids=str)
def test_a_cell_that_works_keeps_the_model(
    kind: SourceKind, runtime: RuntimeName, request: pytest.FixtureRequest
) -> None:
    cell = TABLE[kind, runtime]
    assert isinstance(cell, Works)
    needs(*cell.environments)
    for source in SOURCES[kind](request):
        model = float_model(source, runtime, silently)
        assert model.runtime == runtime
        assert {"tflite": model.data[4:8] == b"TFL3", "pt2": model.data[:2] == b"PK"}.get(
            FORMATS[runtime], True
        )
        assert cell.route == "as-it-is" or model.sqnr_db is None or model.sqnr_db >= FIDELITY_MIN_DB


@pytest.mark.conversions
@pytest.mark.parametrize(("kind", "runtime"), REFUSED, ids=str)
def test_a_cell_that_is_refused_says_why_and_what_works(kind: SourceKind, runtime: RuntimeName) -> None:
    cell = TABLE[kind, runtime]
    assert isinstance(cell, Refused)
    with pytest.raises(UnsupportedConversionError) as caught:
        float_model(Source(kind, Path("never read")), runtime, silently)
    assert cell.reason in str(caught.value) and cell.instead in str(caught.value)


@pytest.mark.conversions
def test_the_sample_keeps_its_names_and_its_answers_on_litert() -> None:
    """Against ONNX Runtime on real images; the file in tests/data is this very model."""
    needs("torch")
    model = float_model(recognise(SAMPLE / "model.onnx"), "litert", silently)
    assert [spec.name for spec in (*model.inputs, *model.outputs)] == ["image", "logits"]
    with np.load(SAMPLE / "calibration.npz") as arrays:
        images = arrays["image"][:16]
    kept = FloatModel(
        (REPOSITORY / "tests" / "data" / "fashion-mnist.tflite").read_bytes(),
        "litert",
        model.inputs,
        model.outputs,
    )
    onnx = convert._read_onnx(SAMPLE / "model.onnx", "onnxruntime")
    expected = convert._session(onnx).run({"image": images})
    for candidate in (model, kept):
        session = convert._session(candidate)
        rows = [session.run({"image": image[None]})["logits"] for image in images]
        figure = worst_sqnr_db(expected, {"logits": np.concatenate(rows)})
        assert figure is not None and figure > 100


@pytest.mark.conversions
def test_tflite_runtime_answers_as_litert_does_for_static_int8_and_wrongly_for_dynamic() -> None:
    """Why `UNFIT` refuses dynamic recipes there."""
    needs("tflite-runtime")
    source = float_model(
        recognise(REPOSITORY / "tests" / "data" / "fashion-mnist.tflite"), "litert", silently
    )
    with np.load(SAMPLE / "calibration.npz") as arrays:
        images = ArraySamples({"image": arrays["image"][:16]})
    figures = {}
    for recipe in (StaticWi8Ai8(), DynamicWi8Afp32(operators=("Conv", "Gemm"))):
        data = emit(source, recipe, images)
        session = convert._session(FloatModel(data, "litert", source.inputs, source.outputs))
        rows = [session.run(feed)["logits"] for feed in images.batches(1)]
        there = replay_on("tflite-runtime", data, source.inputs, source.outputs, images.arrays, silently)
        figures[recipe.name] = worst_sqnr_db({"logits": np.concatenate(rows)}, there)
    static, dynamic = figures["static_wi8_ai8"], figures["dynamic_wi8_afp32"]
    assert static is None or static > 25
    assert dynamic is not None and dynamic < 10


@pytest.mark.conversions
def test_the_network_of_weights_must_be_named_rightly(torch_files: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text("import torch\n\ndef make():\n    return torch.nn.Linear(2, 2)\n")
    weights = torch_files / "weights.pth"
    with pytest.raises(ConversionFailedError, match="weights are not those of the class"):
        float_model(recognise(weights, reference=f"{other}:make", inputs=IMAGE), "onnxruntime", silently)
    with pytest.raises(ConversionFailedError, match="has no Missing"):
        float_model(recognise(weights, reference=f"{other}:Missing", inputs=IMAGE), "onnxruntime", silently)


@pytest.mark.conversions
def test_a_pickle_is_not_loaded_as_weights(torch_files: Path) -> None:
    source = recognise(torch_files / "whole.pth", reference=NET, inputs=IMAGE)
    with pytest.raises(ConversionFailedError, match="weights alone"):
        float_model(source, "onnxruntime", silently)


@pytest.mark.conversions
@pytest.mark.parametrize("name", ["broken.keras", "broken.pt2"])
def test_a_damaged_archive_is_the_models_fault(name: str, tmp_path: Path) -> None:
    needs("tensorflow" if name.endswith("keras") else "torch")
    (tmp_path / name).write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(ConversionFailedError):
        float_model(recognise(tmp_path / name), "litert", silently)
