"""Opening and running `.tflite` models with LiteRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed (packhorse[litert])")

from ai_edge_litert import schema_py_generated as schema

from packhorse_agent.contract.manifest import RuntimeRequirement, TensorSpec
from packhorse_agent.runtime.base import Session, open_model
from packhorse_agent.runtime.errors import InputRefusedError, ModelLoadError, RuntimeMissingError
from tests.agent.models import FEATURES, WEIGHTS, linear_golden
from tests.agent.tflite_models import custom_tflite, linear_tflite, sum_tflite

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
SCORES = TensorSpec(name="scores", datatype="FP32", shape=(-1, 3))
NEEDED = RuntimeRequirement(name="litert", minimum_version="2.1")


def opened(
    folder: Path,
    model: bytes,
    inputs: tuple[TensorSpec, ...] = (X,),
    outputs: tuple[TensorSpec, ...] = (SCORES,),
    providers: tuple[str, ...] = (),
) -> Session:
    path = folder / "model.tflite"
    path.write_bytes(model)
    return open_model(path, NEEDED.model_copy(update={"providers": providers}), inputs, outputs)


def test_a_model_runs_and_tells_its_tensors(tmp_path: Path) -> None:
    session = opened(tmp_path, linear_tflite())
    golden = linear_golden()
    answer = session.run(golden.inputs)
    np.testing.assert_allclose(answer["scores"], golden.inputs["x"] @ WEIGHTS, rtol=1e-5)
    assert (session.inputs, session.outputs) == ((X,), (SCORES,))
    assert (session.provider, session.notes) == ("XNNPACK", ())


def test_every_batch_gets_its_own_answer(tmp_path: Path) -> None:
    session = opened(tmp_path, linear_tflite())
    x = np.random.default_rng(0).normal(size=(7, FEATURES)).astype(np.float32)
    for count in (1, 7, 3, 3, 1):
        np.testing.assert_allclose(session.run({"x": x[:count]})["scores"], x[:count] @ WEIGHTS, rtol=1e-5)


def test_an_answer_stays_when_the_next_one_comes(tmp_path: Path) -> None:
    session = opened(tmp_path, linear_tflite())
    first = session.run({"x": np.ones((1, FEATURES), np.float32)})["scores"]
    kept = first.copy()
    session.run({"x": np.zeros((1, FEATURES), np.float32)})
    np.testing.assert_array_equal(first, kept)


def test_without_a_signature_tensors_go_by_their_own_names(tmp_path: Path) -> None:
    session = opened(
        tmp_path,
        linear_tflite(signature=False),
        (X.model_copy(update={"name": "x_tensor"}),),
        (SCORES.model_copy(update={"name": "scores_tensor"}),),
    )
    answer = session.run({"x_tensor": np.ones((1, FEATURES), np.float32)})
    np.testing.assert_allclose(answer["scores_tensor"], WEIGHTS.sum(axis=0)[None], rtol=1e-5)


def test_inputs_go_by_name_not_by_order(tmp_path: Path) -> None:
    specs = {name: TensorSpec(name=name, datatype="FP32", shape=(-1, 2)) for name in "abc"}
    session = opened(tmp_path, sum_tflite(), (specs["a"], specs["b"]), (specs["c"],))
    a, b = np.array([[1, 2]], np.float32), np.array([[10, 20]], np.float32)
    np.testing.assert_array_equal(session.run({"a": a, "b": b})["c"], a + b)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 5), np.float32),
        np.zeros((1, 4), np.float64),
        np.zeros((1, 4), np.int8),
        np.zeros(4, np.float32),
        np.zeros((1, 1, 4), np.float32),
    ],
    ids=str,
)
def test_the_input_of_another_form_is_the_callers_fault(array: np.ndarray, tmp_path: Path) -> None:
    session = opened(tmp_path, linear_tflite())
    with pytest.raises(InputRefusedError):
        session.run({"x": array})
    assert session.run(linear_golden().inputs)["scores"].shape == (8, 3)


@pytest.mark.parametrize("names", [(), ("y",), ("x", "y")])
def test_inputs_of_other_names_are_the_callers_fault(names: tuple[str, ...], tmp_path: Path) -> None:
    session = opened(tmp_path, linear_tflite())
    with pytest.raises(InputRefusedError, match="takes x, got"):
        session.run(dict.fromkeys(names, np.zeros((1, 4), np.float32)))


def test_a_fixed_batch_is_held_to(tmp_path: Path) -> None:
    session = opened(tmp_path, linear_tflite(batch=1))
    assert session.inputs[0].shape == (1, 4)
    with pytest.raises(InputRefusedError):
        session.run({"x": np.zeros((2, 4), np.float32)})


BAD_MODELS = {
    "empty": b"",
    "another format": b"PK\x03\x04 not a model",
    "only the magic": b"\x1c\0\0\0TFL3",
    "truncated": linear_tflite()[:-60],
    "unknown operator": custom_tflite(),
    "text input": linear_tflite(kind=schema.TensorType.STRING),
    "complex input": linear_tflite(kind=schema.TensorType.COMPLEX64),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_bad_model_is_refused(case: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        opened(tmp_path, BAD_MODELS[case])
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError):
        open_model(tmp_path / "none.tflite", NEEDED, (X,), (SCORES,))


def test_a_model_other_than_its_manifest_says_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="manifest"):
        opened(tmp_path, linear_tflite(), (X.model_copy(update={"shape": (-1, 7)}),))


def test_the_built_in_kernels_run_when_they_are_asked_for(tmp_path: Path) -> None:
    session = opened(tmp_path, linear_tflite(), providers=("CPU",))
    assert (session.provider, session.notes) == ("CPU", ())


def test_a_preferred_accelerator_that_is_not_here_is_reported(tmp_path: Path) -> None:
    session = opened(tmp_path, linear_tflite(), providers=("GPU", "XNNPACK"))
    assert session.provider == "XNNPACK"
    assert session.notes == ("runs on XNNPACK: GPU is preferred and not available",)


def test_no_accelerator_of_those_named_is_a_missing_runtime(tmp_path: Path) -> None:
    with pytest.raises(RuntimeMissingError, match="needs GPU"):
        opened(tmp_path, linear_tflite(), providers=("GPU",))
