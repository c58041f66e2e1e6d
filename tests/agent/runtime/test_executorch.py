"""Opening and running `.pte` programs with ExecuTorch itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (packhorse[executorch])")
pytest.importorskip("executorch", reason="ExecuTorch is not installed (packhorse[executorch])")

from packhorse_agent.contract.manifest import RuntimeRequirement, TensorSpec
from packhorse_agent.runtime.base import Session, open_file, open_model
from packhorse_agent.runtime.errors import InputRefusedError, ModelLoadError, RuntimeMissingError
from tests.agent.models import CLASSES, FEATURES, WEIGHTS
from tests.agent.torch_models import PAIR, Difference, Linear, X, write_pte

pytestmark = pytest.mark.slow

X_SPEC = TensorSpec(name="x", datatype="FP32", shape=(1, FEATURES))
SCORES = TensorSpec(name="scores", datatype="FP32", shape=(1, CLASSES))
NEEDED = RuntimeRequirement(name="executorch", minimum_version="1.5", threads=1)
ONES = np.ones((1, FEATURES), np.float32)


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pte(tmp_path_factory.mktemp("pte") / "linear.pte", Linear(), (X,))


def opened(path: Path, **changes: Any) -> Session:
    return open_model(path, NEEDED.model_copy(update=changes), [X_SPEC], [SCORES])


def test_a_model_runs_under_the_names_of_its_manifest(linear: Path) -> None:
    session = opened(linear)
    np.testing.assert_allclose(session.run({"x": ONES})["scores"], ONES @ WEIGHTS, rtol=1e-5)
    assert (session.inputs, session.outputs) == ((X_SPEC,), (SCORES,))
    assert (session.provider, session.notes) == ("XNNPACK", ())


def test_without_a_manifest_tensors_go_by_their_place(linear: Path) -> None:
    session = open_file(linear, NEEDED)
    assert [spec.name for spec in (*session.inputs, *session.outputs)] == ["input_0", "output_0"]
    np.testing.assert_allclose(session.run({"input_0": ONES})["output_0"], ONES @ WEIGHTS, rtol=1e-5)


def test_several_tensors_keep_their_order(tmp_path: Path) -> None:
    path = write_pte(tmp_path / "difference.pte", Difference(), PAIR)
    # named so that no sorting gives the right order
    names = [TensorSpec(name=name, datatype="FP32", shape=(1, 2)) for name in ("z", "a", "later", "first")]
    session = open_model(path, NEEDED, names[:2], names[2:])
    z, a = np.array([[5, 7]], np.float32), np.array([[1, 2]], np.float32)
    answer = session.run({"a": a, "z": z})
    np.testing.assert_array_equal(answer["later"], z - a)
    np.testing.assert_array_equal(answer["first"], a - z)


def test_an_answer_stays_when_the_next_one_comes(linear: Path) -> None:
    session = opened(linear)
    first = session.run({"x": ONES})["scores"]
    kept = first.copy()
    session.run({"x": np.zeros_like(ONES)})
    np.testing.assert_array_equal(first, kept)


def test_a_read_only_array_is_taken(linear: Path) -> None:
    array = ONES.copy()
    array.setflags(write=False)
    np.testing.assert_allclose(opened(linear).run({"x": array})["scores"], ONES @ WEIGHTS, rtol=1e-5)


@pytest.mark.parametrize(
    "array",
    [np.ones((2, FEATURES), np.float32), np.ones(FEATURES, np.float32), np.ones((1, FEATURES), np.float64)],
)
def test_a_wrong_array_is_refused_and_harms_nothing(linear: Path, array: Any) -> None:
    session = opened(linear)
    with pytest.raises(InputRefusedError, match="x takes FP32"):
        session.run({"x": array})
    np.testing.assert_allclose(session.run({"x": ONES})["scores"], ONES @ WEIGHTS, rtol=1e-5)


@pytest.mark.parametrize("name", ["y", "input_0"])
def test_a_name_that_the_manifest_does_not_have_is_refused(linear: Path, name: str) -> None:
    with pytest.raises(InputRefusedError, match="the model takes x, got"):
        opened(linear).run({name: ONES})


def test_a_manifest_of_other_tensors_is_refused(linear: Path) -> None:
    with pytest.raises(ModelLoadError, match="manifest names 2 inputs; the model has 1"):
        open_model(linear, NEEDED, [X_SPEC, SCORES], [SCORES])
    wide = X_SPEC.model_copy(update={"shape": (1, FEATURES + 1)})
    with pytest.raises(ModelLoadError, match="input x"):
        open_model(linear, NEEDED, [wide], [SCORES])


def test_a_program_that_was_not_lowered_says_so(tmp_path: Path) -> None:
    session = opened(write_pte(tmp_path / "portable.pte", Linear(), (X,), xnnpack=False))
    assert session.provider == "CPU"
    assert any("portable kernels" in note for note in session.notes)
    np.testing.assert_allclose(session.run({"x": ONES})["scores"], ONES @ WEIGHTS, rtol=1e-5)


def test_other_accelerators_are_not_silently_replaced(linear: Path) -> None:
    with pytest.raises(RuntimeMissingError, match="QNN"):
        opened(linear, providers=("QNN",))


def _nothing(data: bytes) -> bytes:
    return b""


def _foreign(data: bytes) -> bytes:
    return b"PK\x03\x04" + data


def _truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("damage", [_nothing, _foreign, _truncated])
def test_a_damaged_file_is_refused(linear: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "damaged.pte"
    path.write_bytes(damage(linear.read_bytes()))
    with pytest.raises(ModelLoadError):
        opened(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError):
        opened(tmp_path / "nothing.pte")
