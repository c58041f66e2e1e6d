"""Opening and running models with ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from packhorse_agent.contract.manifest import RuntimeRequirement, TensorSpec
from packhorse_agent.runtime import base
from packhorse_agent.runtime.base import Session, open_model
from packhorse_agent.runtime.errors import InputRefusedError, ModelLoadError, RuntimeMissingError
from packhorse_agent.runtime.installed import installed_runtimes
from tests.agent.models import WEIGHTS, linear_golden, linear_model, single_node

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
SCORES = TensorSpec(name="scores", datatype="FP32", shape=(-1, 3))
NEEDED = RuntimeRequirement(name="onnxruntime", minimum_version="1.20")


def opened(
    folder: Path,
    model: bytes,
    requirement: RuntimeRequirement = NEEDED,
    inputs: tuple[TensorSpec, ...] = (X,),
    outputs: tuple[TensorSpec, ...] = (SCORES,),
) -> Session:
    path = folder / "model.onnx"
    path.write_bytes(model)
    return open_model(path, requirement, inputs, outputs)


def needing(**changes: object) -> RuntimeRequirement:
    return NEEDED.model_copy(update=changes)


def test_a_model_runs_and_tells_its_tensors(tmp_path: Path) -> None:
    session = opened(tmp_path, linear_model())
    golden = linear_golden()
    answer = session.run(golden.inputs)
    np.testing.assert_allclose(answer["scores"], golden.inputs["x"] @ WEIGHTS, rtol=1e-5)
    assert (session.inputs, session.outputs) == ((X,), (SCORES,))
    assert (session.provider, session.notes) == ("CPUExecutionProvider", ())


def test_the_input_that_the_runtime_refuses_is_the_callers_fault(tmp_path: Path) -> None:
    session = opened(tmp_path, linear_model())
    with pytest.raises(InputRefusedError):
        session.run({"x": np.zeros((1, 5), np.float32)})
    with pytest.raises(InputRefusedError):
        session.run({})


BAD_MODELS = {
    "empty": b"",
    "not an ONNX file": b"PK\x03\x04 not a model",
    "truncated": linear_model()[:-40],
    "unknown operator": single_node(
        helper.make_node("Zaubern", ["x"], ["scores"]),
        {"x": (TensorProto.FLOAT, [1, 4])},
        {"scores": (TensorProto.FLOAT, [1, 3])},
    ),
    "text input": single_node(
        helper.make_node("Identity", ["x"], ["scores"]),
        {"x": (TensorProto.STRING, [1])},
        {"scores": (TensorProto.STRING, [1])},
    ),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_bad_model_is_refused(case: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        opened(tmp_path, BAD_MODELS[case])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ((X.model_copy(update={"name": "y"}),), (SCORES,)),
        ((X.model_copy(update={"datatype": "INT8"}),), (SCORES,)),
        ((X.model_copy(update={"shape": (-1, 7)}),), (SCORES,)),
        ((X,), (SCORES, SCORES.model_copy(update={"name": "more"}))),
        ((X,), (SCORES.model_copy(update={"shape": (-1, 3, 1)}),)),
    ],
)
def test_a_model_other_than_its_manifest_says_is_refused(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError, match="manifest"):
        opened(tmp_path, linear_model(), inputs=inputs, outputs=outputs)


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        (needing(minimum_version="999.1"), "the bundle needs onnxruntime>=999.1"),
        (needing(providers=("QNNExecutionProvider",)), "install onnxruntime-qnn"),
        (needing(name="executorch"), "executorch"),
    ],
)
def test_a_missing_runtime_names_what_to_install(
    requirement: RuntimeRequirement, words: str, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeMissingError, match=words):
        opened(tmp_path, linear_model(), requirement)


def test_a_runtime_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "installed_runtimes", dict)
    with pytest.raises(RuntimeMissingError, match=r"install onnxruntime>=1\.20"):
        opened(tmp_path, linear_model())


def test_a_preferred_accelerator_that_is_not_here_is_reported(tmp_path: Path) -> None:
    providers = ("QNNExecutionProvider", "CPUExecutionProvider")
    session = opened(tmp_path, linear_model(), needing(providers=providers))
    assert session.provider == "CPUExecutionProvider"
    assert session.notes == (
        "runs on CPUExecutionProvider: QNNExecutionProvider is preferred and not available",
    )


def test_installed_runtimes_are_found_without_importing_them() -> None:
    assert installed_runtimes()["onnxruntime"] == onnxruntime.__version__
    check = (
        "import sys; from packhorse_agent.runtime.installed import installed_runtimes; installed_runtimes();"
        "print(sorted({'numpy', 'onnxruntime', 'httptools', 'typer'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
