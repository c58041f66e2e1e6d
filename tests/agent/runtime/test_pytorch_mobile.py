"""Opening and running `.ptl` models with the lite interpreter of torch itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (packhorse[pytorch-mobile])")

import torch

from packhorse_agent.contract.manifest import RuntimeRequirement, TensorSpec
from packhorse_agent.runtime.base import Session, open_model
from packhorse_agent.runtime.errors import InputRefusedError, ModelLoadError, RuntimeMissingError
from tests.agent.models import CLASSES, FEATURES, WEIGHTS
from tests.agent.torch_models import PAIR, Difference, Linear, X, write_ptl

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]

X_SPEC = TensorSpec(name="x", datatype="FP32", shape=(1, FEATURES))
SCORES = TensorSpec(name="scores", datatype="FP32", shape=(1, CLASSES))
NEEDED = RuntimeRequirement(name="pytorch-mobile", minimum_version="2.13", threads=1)
ONES = np.ones((1, FEATURES), np.float32)


def described(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    return {
        "inputs": [spec.model_dump(mode="json") for spec in inputs],
        "outputs": [spec.model_dump(mode="json") for spec in outputs],
    }


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    return write_ptl(tmp_path / "linear.ptl", Linear(), (X,), described((X_SPEC,), (SCORES,)))


def opened(path: Path, **changes: Any) -> Session:
    return open_model(path, NEEDED.model_copy(update=changes), [X_SPEC], [SCORES])


def test_a_model_runs_and_says_that_it_is_legacy(linear: Path) -> None:
    session = opened(linear)
    np.testing.assert_allclose(session.run({"x": ONES})["scores"], ONES @ WEIGHTS, rtol=1e-5)
    assert (session.inputs, session.outputs) == ((X_SPEC,), (SCORES,))
    assert session.provider == "QNNPACK"
    assert any("legacy" in note for note in session.notes)


def test_an_int8_model_runs(tmp_path: Path) -> None:
    torch.backends.quantized.engine = "qnnpack"
    module = torch.ao.quantization.quantize_dynamic(Linear().eval(), {torch.nn.Linear})
    path = write_ptl(tmp_path / "int8.ptl", module, (X,), described((X_SPEC,), (SCORES,)))
    np.testing.assert_allclose(opened(path).run({"x": ONES})["scores"], ONES @ WEIGHTS, atol=0.1)


def test_several_tensors_go_by_the_description(tmp_path: Path) -> None:
    z, a, later, first = (
        TensorSpec(name=name, datatype="FP32", shape=(1, 2)) for name in ("z", "a", "later", "first")
    )
    path = write_ptl(tmp_path / "difference.ptl", Difference(), PAIR, described((z, a), (later, first)))
    session = open_model(path, NEEDED, [a, z], [first, later])  # a manifest in another order
    left, right = np.array([[5, 7]], np.float32), np.array([[1, 2]], np.float32)
    np.testing.assert_array_equal(session.run({"a": right, "z": left})["later"], left - right)


@pytest.mark.parametrize(
    "array", [np.ones((2, FEATURES), np.float32), np.ones((1, FEATURES), np.int64), np.ones(4, np.float32)]
)
def test_a_wrong_array_is_refused_and_harms_nothing(linear: Path, array: Any) -> None:
    session = opened(linear)
    with pytest.raises(InputRefusedError, match="x takes FP32"):
        session.run({"x": array})
    np.testing.assert_allclose(session.run({"x": ONES})["scores"], ONES @ WEIGHTS, rtol=1e-5)


def test_a_file_that_does_not_describe_its_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="does not describe its tensors"):
        opened(write_ptl(tmp_path / "bare.ptl", Linear(), (X,), None))


@pytest.mark.parametrize("description", [{"inputs": []}, {"inputs": "x", "outputs": []}])
def test_a_description_that_is_none_is_refused(tmp_path: Path, description: dict[str, Any]) -> None:
    with pytest.raises(ModelLoadError, match="does not describe tensors"):
        opened(write_ptl(tmp_path / "odd.ptl", Linear(), (X,), description))


def test_a_description_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="longer than"):
        opened(write_ptl(tmp_path / "long.ptl", Linear(), (X,), {"inputs": "x" * 100_000}))


@pytest.mark.parametrize("data", [b"", b"TFL3 is something else", b"PK\x03\x04 but cut"])
def test_a_damaged_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "damaged.ptl"
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match="does not load"):
        opened(path)


def test_a_truncated_file_is_refused(linear: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.ptl"
    path.write_bytes(linear.read_bytes()[:-200])
    with pytest.raises(ModelLoadError, match="does not load"):
        opened(path)


def test_other_accelerators_are_not_silently_replaced(linear: Path) -> None:
    with pytest.raises(RuntimeMissingError, match="Vulkan"):
        opened(linear, providers=("Vulkan",))
