"""TensorRT behind the runtime protocol: engines built once, run in parts, and every way it can fail.

The library and the GPU are stand-ins (`tests/fakes/tensorrt.py`) but for the last test.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from packhorse_agent.contract.manifest import RuntimeRequirement
from packhorse_agent.runtime import base, tensorrt
from packhorse_agent.runtime.base import Runtime
from packhorse_agent.runtime.cuda_driver import Gpu
from packhorse_agent.runtime.engine_cache import FOLDER_VARIABLE, BuildOptions, EngineCache
from packhorse_agent.runtime.errors import (
    InferenceFailedError,
    InputRefusedError,
    ModelLoadError,
    RuntimeMissingError,
)
from packhorse_agent.runtime.tensorrt import TensorRtSession, open_session, open_with
from packhorse_agent.runtime.tensorrt_binding import TensorRt, import_tensorrt
from tests.agent.models import CLASSES, FEATURES, WEIGHTS, linear_golden, linear_model, single_node
from tests.fakes.tensorrt import FakeCuda, FakeTensorRt

NEEDED = RuntimeRequirement(name="tensorrt", minimum_version="10.3")
FOUR = BuildOptions(batch_max=4)


class Device:
    """A GPU with TensorRT, a folder for engines, and a model."""

    def __init__(self, folder: Path, version: str = "10.3.0", gpu: Gpu | None = None) -> None:
        self.cuda = FakeCuda(gpu) if gpu else FakeCuda()
        self.library = FakeTensorRt(self.cuda, version)
        self.cache = EngineCache(folder / "engines")
        self.path = folder / "model.onnx"
        if not self.path.exists():
            self.path.write_bytes(linear_model())

    def opened(self, options: BuildOptions | None = None) -> TensorRtSession:
        return open_with(TensorRt(self.library, self.cuda), self.cache, self.path, options)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def features(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32)


def test_it_is_a_runtime_of_the_protocol() -> None:
    module: Runtime = tensorrt
    assert module.open_session is open_session
    assert base._MODULES["tensorrt"] == tensorrt.__name__


def test_a_model_is_built_runs_and_tells_its_tensors(device: Device) -> None:
    session = device.opened()
    golden = linear_golden()
    np.testing.assert_allclose(session.run(golden.inputs)["scores"], golden.inputs["x"] @ WEIGHTS, rtol=1e-5)
    (x,), (scores,) = session.inputs, session.outputs
    assert (x.name, x.datatype, x.shape) == ("x", "FP32", (-1, FEATURES))
    assert (scores.name, scores.datatype, scores.shape) == ("scores", "FP32", (-1, CLASSES))
    assert session.provider == "GPU"
    assert session.notes == ("the engine was built in 0 s for Orin",)


def test_the_second_start_builds_nothing(device: Device, tmp_path: Path) -> None:
    first = device.opened()
    again = Device(tmp_path)
    second = again.opened()
    assert (device.library.builds, again.library.builds) == (1, 0)
    assert second.notes == ()
    x = features(3)
    np.testing.assert_array_equal(first.run({"x": x})["scores"], second.run({"x": x})["scores"])


@pytest.mark.parametrize(
    ("version", "gpu"),
    [("10.4.0", None), ("10.3.0", Gpu("Orin", "8.9")), ("10.3.0", Gpu("NVIDIA GeForce RTX 4090", "8.7"))],
)
def test_another_version_or_gpu_builds_anew(
    device: Device, tmp_path: Path, version: str, gpu: Gpu | None
) -> None:
    device.opened()
    other = Device(tmp_path, version, gpu)
    other.opened()
    assert other.library.builds == 1
    assert other.library.timings_given == [b""], "what was timed elsewhere is of no use"
    assert Device(tmp_path).opened().notes == (), "the first engine is still there"


def test_other_options_and_other_models_build_anew(device: Device) -> None:
    device.opened()
    device.opened(FOUR)
    device.path.write_bytes(linear_model(WEIGHTS * 2))
    device.opened(FOUR)
    assert device.library.builds == 3


def test_what_was_timed_serves_the_next_model(device: Device) -> None:
    device.opened()
    device.path.write_bytes(linear_model(WEIGHTS * 2))
    device.opened()
    stamp = device.library.stamp().encode()
    assert device.library.timings_given == [b"", stamp + b"|+"]


def damaged(folder: Path, ending: str, change: str) -> None:
    (path,) = (folder / "engines").glob(f"*{ending}")
    data = bytearray(path.read_bytes())
    if change == "empty":
        data.clear()
    elif change == "cut":
        del data[-3:]
    elif change == "bit":
        data[-1] ^= 1
    else:
        data[:4] = b"none"
    path.write_bytes(data)


@pytest.mark.parametrize("change", ["empty", "cut", "bit", "head"])
def test_a_damaged_engine_is_built_again(device: Device, tmp_path: Path, change: str) -> None:
    device.opened()
    damaged(tmp_path, ".engine", change)
    session = device.opened()
    assert device.library.builds == 2
    np.testing.assert_allclose(session.run({"x": features(2)})["scores"], features(2) @ WEIGHTS, rtol=1e-5)
    device.opened()
    assert device.library.builds == 2


@pytest.mark.parametrize("change", ["empty", "cut", "bit", "head"])
def test_a_damaged_timing_cache_is_forgotten(device: Device, tmp_path: Path, change: str) -> None:
    device.opened()
    damaged(tmp_path, ".timing", change)
    device.opened(FOUR)
    assert device.library.timings_given[-1] == b""


def test_an_engine_that_is_whole_and_not_taken_is_built_again(device: Device, tmp_path: Path) -> None:
    """As after an update of the driver, which no version tells."""
    device.opened()
    again = Device(tmp_path)
    again.library.refuse_loads = 1
    session = again.opened()
    assert again.library.builds == 1
    assert session.notes


def test_a_timing_cache_that_tensorrt_refuses_is_replaced(device: Device) -> None:
    trt = TensorRt(device.library, device.cuda)
    built = trt.build(linear_model(), BuildOptions(), b"another version|++")
    assert device.library.timings_given == [b"another version|++", b""]
    assert built.timing == device.library.stamp().encode() + b"|+"


def test_without_a_folder_to_write_to_it_runs_and_says_so(device: Device, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    device.cache = EngineCache(tmp_path / "file" / "engines")
    session = device.opened()
    assert "cannot be kept" in session.notes[1]
    np.testing.assert_allclose(session.run({"x": features(1)})["scores"], features(1) @ WEIGHTS, rtol=1e-5)


def test_more_samples_than_an_engine_takes_are_taken_in_parts(device: Device) -> None:
    session = device.opened(FOUR)
    for count in (1, 3, 4, 5, 8, 11, 2):
        x = features(count, seed=count)
        np.testing.assert_allclose(session.run({"x": x})["scores"], x @ WEIGHTS, rtol=1e-5)


def test_memory_grows_with_the_batch_and_is_given_back(device: Device) -> None:
    session = device.opened(FOUR)
    session.run({"x": features(1)})
    small = sum(len(block) for block in device.cuda.memory.values())
    session.run({"x": features(4)})
    session.run({"x": features(1)})
    assert sum(len(block) for block in device.cuda.memory.values()) == 4 * small
    del session
    assert device.cuda.memory == {}


def test_an_answer_stays_when_the_next_one_comes(device: Device) -> None:
    session = device.opened()
    first = session.run({"x": features(1)})["scores"]
    kept = first.copy()
    session.run({"x": features(1, seed=5)})
    np.testing.assert_array_equal(first, kept)


def test_an_input_that_lies_in_pieces_is_taken(device: Device) -> None:
    x = np.asfortranarray(features(3))
    np.testing.assert_allclose(device.opened().run({"x": x})["scores"], x @ WEIGHTS, rtol=1e-5)


def test_each_inference_enters_the_gpu_of_its_thread(device: Device) -> None:
    session = device.opened()
    before = device.cuda.entered
    session.run({"x": features(1)})
    assert device.cuda.entered == before + 1


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"y": features(1)},
        {"x": features(1), "y": features(1)},
        {"x": features(1).astype(np.float64)},
        {"x": features(1)[0]},
        {"x": features(1)[:, :3]},
        {"x": features(0)},
    ],
    ids=["none", "name", "more", "type", "rank", "length", "empty"],
)
def test_a_wrong_input_is_refused_before_the_engine_sees_it(device: Device, inputs: Any) -> None:
    session = device.opened()
    with pytest.raises(InputRefusedError):
        session.run(inputs)
    assert device.cuda.memory == {}


def pairwise(name: str, *shapes: list[Any]) -> bytes:
    given = {f"in{index}": (TensorProto.FLOAT, shape) for index, shape in enumerate(shapes)}
    node = helper.make_node(name, list(given), ["out"])
    return single_node(node, given, {"out": (TensorProto.FLOAT, shapes[0])})


def test_inputs_with_batches_of_their_own_length_are_refused(device: Device) -> None:
    device.path.write_bytes(pairwise("Add", ["n", 2], ["n", 2]))
    session = device.opened()
    with pytest.raises(InputRefusedError, match="one batch"):
        session.run({"in0": np.ones((2, 2), np.float32), "in1": np.ones((3, 2), np.float32)})


def test_what_has_no_batch_is_given_to_every_part(device: Device) -> None:
    device.path.write_bytes(pairwise("Add", ["n", 2], [1, 2]))
    session = device.opened(FOUR)
    rows, one = np.arange(12, dtype=np.float32).reshape(6, 2), np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(session.run({"in0": rows, "in1": one})["out"], rows + 1)


def test_a_fixed_batch_needs_no_profile(device: Device) -> None:
    device.path.write_bytes(linear_model(batch=1))
    session = device.opened()
    assert session.inputs[0].shape == (1, FEATURES)
    session.run({"x": features(1)})
    with pytest.raises(InputRefusedError):
        session.run({"x": features(2)})


def test_an_output_without_batch_cannot_be_put_together(device: Device) -> None:
    node = helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0)
    device.path.write_bytes(
        single_node(node, {"x": (TensorProto.FLOAT, ["n", 2])}, {"total": (TensorProto.FLOAT, [])})
    )
    session = device.opened(FOUR)
    assert session.run({"x": np.ones((4, 2), np.float32)})["total"] == 8
    with pytest.raises(InputRefusedError, match="4 samples at once, got 5"):
        session.run({"x": np.ones((5, 2), np.float32)})


def test_a_free_axis_besides_the_batch_is_refused(device: Device) -> None:
    device.path.write_bytes(pairwise("Add", ["n", "m"], ["n", "m"]))
    with pytest.raises(ModelLoadError, match=r"in0 has shape \[-1, -1\]: .*fix them when"):
        device.opened()


def test_a_file_that_is_no_model_is_refused_in_tensorrts_words(device: Device) -> None:
    device.path.write_bytes(b"not a model")
    with pytest.raises(ModelLoadError, match="does not take the model: Failed to parse"):
        device.opened()
    device.path.unlink()
    with pytest.raises(ModelLoadError, match="No such file"):
        device.opened()


def test_a_build_that_fails_is_told_in_tensorrts_words(device: Device, tmp_path: Path) -> None:
    device.library.refuse_build = "Could not find any implementation for node conv1"
    with pytest.raises(ModelLoadError, match="builds no engine of the model: Could not find any"):
        device.opened()
    assert not list((tmp_path / "engines").glob("*.engine"))
    device.library.refuse_build = ""
    device.opened()


def test_an_engine_that_its_own_builder_refuses_is_an_error(device: Device) -> None:
    device.library.refuse_loads = 9
    with pytest.raises(ModelLoadError, match="has just built"):
        device.opened()


def test_no_memory_for_an_engine_is_said(device: Device) -> None:
    device.library.refuse_context = True
    with pytest.raises(ModelLoadError, match="no memory to run"):
        device.opened()


def test_a_type_that_the_protocol_has_not_is_refused(device: Device) -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)
    tensors = {"x": (TensorProto.FLOAT, [1, 2])}, {"y": (TensorProto.BFLOAT16, [1, 2])}
    device.path.write_bytes(single_node(node, *tensors))
    with pytest.raises(ModelLoadError, match="y is BF16"):
        device.opened()


def test_a_failing_inference_is_told_and_the_next_one_works(device: Device) -> None:
    session = device.opened()
    device.library.refuse_run = True
    with pytest.raises(InferenceFailedError, match="TensorRT does not run"):
        session.run({"x": features(1)})
    device.library.refuse_run = False
    device.cuda.fail_at_wait = True
    with pytest.raises(InferenceFailedError, match="illegal memory access"):
        session.run({"x": features(1)})
    device.cuda.fail_at_wait = False
    np.testing.assert_allclose(session.run({"x": features(1)})["scores"], features(1) @ WEIGHTS, rtol=1e-5)


def test_a_gpu_without_memory_fails_the_inference(device: Device) -> None:
    session = device.opened()
    device.cuda.free_bytes = 0
    with pytest.raises(InferenceFailedError, match="too little memory"):
        session.run({"x": features(1)})


def test_precision_is_that_of_the_graph(device: Device, tmp_path: Path) -> None:
    device.opened()
    (engine,) = (tmp_path / "engines").glob("*.engine")
    assert b'"tf32": false' in engine.read_bytes()


@pytest.mark.parametrize(
    "error",
    [ModuleNotFoundError("No module named 'tensorrt'"),
     ImportError("libnvinfer.so.11: cannot open shared object file"), OSError("libnvonnxparser.so.10")],
)  # fmt: skip
def test_a_missing_library_says_what_to_install(error: Exception) -> None:
    def fail(name: str) -> Any:
        raise error

    with pytest.raises(RuntimeMissingError, match=r"python3-libnvinfer.*pip install tensorrt") as caught:
        import_tensorrt(fail)
    assert str(error) in str(caught.value)


def test_a_library_that_only_runs_engines_is_not_enough() -> None:
    with pytest.raises(RuntimeMissingError, match="cannot build"):
        import_tensorrt(lambda name: object())


def test_another_accelerator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeMissingError, match="the bundle needs DLA"):
        open_session(tmp_path / "model.onnx", NEEDED.model_copy(update={"providers": ("DLA",)}))


def test_opening_goes_to_the_users_cache(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "elsewhere"))
    monkeypatch.setattr(tensorrt, "open_tensorrt", lambda: TensorRt(device.library, device.cuda))
    open_session(device.path, NEEDED.model_copy(update={"providers": ("DLA", "GPU")}))
    assert list((tmp_path / "elsewhere").glob("*.engine"))


def _missing() -> str:
    if ctypes.util.find_library("cuda") is None:
        return "an NVIDIA driver (libcuda)"
    return "" if importlib.util.find_spec("tensorrt") else "TensorRT (pip install tensorrt)"


@pytest.mark.skipif(bool(_missing()), reason=f"missing: {_missing()}")
def test_a_real_gpu_builds_keeps_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "engines"))
    path = tmp_path / "model.onnx"
    path.write_bytes(linear_model())
    first, second = open_session(path, NEEDED), open_session(path, NEEDED)
    assert first.notes
    assert second.notes == ()
    for count in (1, 16, 40):
        x = features(count)
        for session in (first, second):
            np.testing.assert_allclose(session.run({"x": x})["scores"], x @ WEIGHTS, rtol=1e-4, atol=1e-5)
