"""From a model to bundles: all of them, or an error and none."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from packhorse_agent.contract.manifest import ArtifactRole
from packhorse_agent.contract.profile import Profile
from packhorse_agent.runtime.base import open_model
from packhorse_agent.runtime.golden import compare, read_golden, replay
from packhorse_agent.trust.bundle_folder import verify_bundle_folder
from packhorse_host.bundle.errors import NotQuantizedError, OtherBundleError, QualityDropError
from packhorse_host.bundle.pack import PackedBundle, pack
from packhorse_host.bundle.request import PackRequest
from packhorse_host.bundle.rules import Rule
from packhorse_host.errors import ConfigError
from packhorse_host.evaluate.errors import LabelsError
from packhorse_host.quantize.errors import CalibrationNeededError, ModelError, UnservedProfileError
from tests.host.float_models import cnn, decisions, elementwise, images, profile, save, save_npz

HERE = platform.machine()
ELSEWHERE = "aarch64" if HERE == "x86_64" else "x86_64"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with calibration, evaluation, labels and preprocessing files."""
    folder = tmp_path_factory.mktemp("data")
    model = cnn()
    save(model, folder / "model.onnx")
    save_npz(folder / "calibration.npz", image=images(64, seed=1))
    evaluation = images(400, seed=2)
    save_npz(folder / "evaluation.npz", image=evaluation, labels=decisions(model, evaluation))
    (folder / "labels.txt").write_text("a\nb\nc\nd\n")
    (folder / "preprocessing.json").write_text('{"input": "image"}')
    return folder


def request(data: Path, output: Path, *profiles: Profile, **changes: Any) -> PackRequest:
    content: dict[str, Any] = {
        "model": data / "model.onnx",
        "name": "net",
        "version": "1.0",
        "profiles": profiles or (profile(),),
        "recipe": "static_wi8_ai8",
        "calibration": data / "calibration.npz",
        "evaluation": data / "evaluation.npz",
        "labels": data / "labels.txt",
        "preprocessing": data / "preprocessing.json",
        "output": output,
    }
    return PackRequest(**(content | changes))


def packed(asked: PackRequest) -> list[PackedBundle]:
    return pack(asked, lambda text: None)


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedBundle:
    (only,) = packed(request(data, tmp_path_factory.mktemp("packed"), max_drop_points=50.0))
    return only


def test_the_folder_is_the_bundle(bundle: PackedBundle) -> None:
    """Model, golden vectors, labels, preprocessing, manifest and a measurement; all digests right."""
    verified = verify_bundle_folder(bundle.folder)
    assert verified.manifest == bundle.manifest
    assert verified.sha256 == bundle.digest
    assert verified.measurement_bytes is not None
    assert {entry.role for entry in bundle.manifest.artifacts} == set(ArtifactRole)
    assert bundle.model.is_file()


def test_evidence_says_what_was_measured_and_on_what(bundle: PackedBundle, data: Path) -> None:
    evidence = bundle.manifest.evidence
    assert evidence.quality is not None
    assert (evidence.quality.fp32, evidence.quality.samples) == (100.0, 400)
    assert evidence.quality.agreement_percent == evidence.quality.quantized > 90
    assert (evidence.integer_kernels, evidence.compute_kernels) == (4, 4)
    assert evidence.size_fp32_bytes == (data / "model.onnx").stat().st_size
    assert evidence.size_bytes == bundle.model.stat().st_size
    assert (evidence.calibration_samples, evidence.max_drop_points) == (64, 50.0)
    assert evidence.overrides == ()
    assert evidence.sqnr_db is not None
    assert bundle.manifest.probe.sqnr_min_db == pytest.approx(evidence.sqnr_db - 3, abs=0.01)


def test_a_device_that_computes_alike_passes_the_probe(bundle: PackedBundle) -> None:
    """Opened by the agent's runtime, one vector at a time, bit for bit like the host."""
    manifest = bundle.manifest
    session = open_model(bundle.model, manifest.runtime, manifest.inputs, manifest.outputs)
    golden = read_golden(bundle.folder / "golden.npz")
    answer = replay(session.run, manifest.inputs, golden, time.perf_counter)
    result = compare(golden, answer, manifest.probe, manifest.outputs)
    assert result.passed, result.detail
    assert result.bit_exact
    assert result.agreement_percent == 100.0
    assert result.vectors == 16


def test_a_device_that_runs_the_wrong_model_fails_the_probe(bundle: PackedBundle) -> None:
    golden = read_golden(bundle.folder / "golden.npz")
    manifest = bundle.manifest
    session = open_model(bundle.model, manifest.runtime, manifest.inputs, manifest.outputs)
    answer = replay(
        lambda inputs: session.run({"image": -np.asarray(inputs["image"])}),
        manifest.inputs,
        golden,
        time.perf_counter,
    )
    assert not compare(golden, answer, manifest.probe, manifest.outputs).passed


def test_expensive_steps_are_done_once(data: Path, tmp_path: Path) -> None:
    """However many profiles want the same."""
    steps: list[str] = []
    profiles = [profile(name) for name in ("one", "two", "three")]
    bundles = pack(request(data, tmp_path, *profiles), steps.append)
    assert [each.manifest.profile for each in bundles] == ["one", "two", "three"]
    assert len({each.manifest.artifacts for each in bundles}) == 1
    assert len(steps) == len(set(steps))


def test_the_same_profile_twice_is_one_bundle(data: Path, tmp_path: Path) -> None:
    assert len(packed(request(data, tmp_path, profile(), profile(), recipe="fp32"))) == 1


def test_each_processor_gets_its_own_model(data: Path, tmp_path: Path) -> None:
    arm, x86 = packed(request(data, tmp_path, profile("arm"), profile("x86", "x86_64")))
    assert arm.manifest.artifacts[0].sha256 != x86.manifest.artifacts[0].sha256
    assert x86.manifest.evidence.integer_kernels == 4


def test_latency_counts_only_on_the_profiles_own_architecture(data: Path, tmp_path: Path) -> None:
    own, foreign = packed(request(data, tmp_path, profile("own", HERE), profile("foreign", ELSEWHERE)))
    assert (own.measurement.verified, foreign.measurement.verified) == (True, False)
    assert own.measurement.machine.architecture == HERE
    assert own.measurement.speedup > 0
    assert own.measurement.manifest_sha256 == own.digest


def test_packing_again_is_fine_and_gives_the_same_digest(data: Path, tmp_path: Path) -> None:
    first = packed(request(data, tmp_path))[0]
    assert packed(request(data, tmp_path))[0].digest == first.digest


def test_another_model_under_the_same_release_is_a_conflict(data: Path, tmp_path: Path) -> None:
    packed(request(data, tmp_path, recipe="fp32"))
    other = save(cnn(softmax=True), tmp_path / "other.onnx")
    with pytest.raises(OtherBundleError, match="--version"):
        packed(request(data, tmp_path, recipe="fp32", model=other))


def test_a_drop_beyond_the_budget_is_refused_for_all(data: Path, tmp_path: Path) -> None:
    """No profile's bundle is written, not even of one that has no fault."""
    output = tmp_path / "out"
    with pytest.raises(QualityDropError, match=r"board: .*--max-drop allows 0; --allow max-drop"):
        packed(request(data, output, recipe="static_wi8_ai8", max_drop_points=0.0))
    assert not output.exists()


def test_an_override_is_recorded(data: Path, tmp_path: Path) -> None:
    (bundle,) = packed(
        request(data, tmp_path, max_drop_points=0.0, allowed=frozenset({Rule.MAX_DROP, Rule.NOT_QUANTIZED}))
    )
    assert bundle.manifest.evidence.overrides == ("max-drop",)
    assert any("overridden by --allow" in text for text in bundle.notices)


@pytest.mark.parametrize("recipe", ["static_wi8_ai8", "dynamic_wi8_afp32"])
def test_a_model_that_did_not_get_quantized(tmp_path: Path, recipe: str) -> None:
    save(elementwise(), tmp_path / "model.onnx")
    save_npz(tmp_path / "data.npz", image=images(8).reshape(-1, 4))
    asked = PackRequest(
        tmp_path / "model.onnx",
        "net",
        "1",
        (profile(),),
        recipe,
        tmp_path / "data.npz",
        output=tmp_path / "out",
    )
    with pytest.raises(NotQuantizedError, match="--allow not-quantized"):
        packed(asked)
    assert not (tmp_path / "out").exists()


def test_no_data_at_all(data: Path, tmp_path: Path) -> None:
    """Golden vectors are made up, which is said; nobody knows that the outputs are classes."""
    nothing = {"calibration": None, "evaluation": None, "labels": None, "preprocessing": None}
    (bundle,) = packed(request(data, tmp_path, recipe="dynamic_wi8_afp32", **nothing))
    assert bundle.manifest.evidence.quality is None
    assert not bundle.manifest.probe.classification
    assert any("made up" in text for text in bundle.notices)
    assert {entry.role for entry in bundle.manifest.artifacts} == {ArtifactRole.MODEL, ArtifactRole.GOLDEN}


def test_fp32_carries_its_source(data: Path, tmp_path: Path) -> None:
    (bundle,) = packed(request(data, tmp_path, recipe="fp32"))
    assert bundle.model.read_bytes() == (data / "model.onnx").read_bytes()
    evidence = bundle.manifest.evidence
    assert (evidence.sqnr_db, evidence.integer_kernels, evidence.calibration_sha256) == (None, 0, None)
    assert evidence.quality is not None
    assert evidence.quality.drop_points == 0


def test_a_model_with_a_batch_of_one(data: Path, tmp_path: Path) -> None:
    model = save(cnn(batch=1), tmp_path / "model.onnx")
    (bundle,) = packed(request(data, tmp_path / "out", model=model))
    assert bundle.manifest.inputs[0].shape == (1, 1, 8, 8)
    assert bundle.manifest.evidence.integer_kernels == 4


def _free_axis() -> Any:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length"])
    graph = helper.make_graph([helper.make_node("Log", ["x"], ["y"])], "graph", [image], [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_free_axes_need_data(tmp_path: Path) -> None:
    model = save(_free_axis(), tmp_path / "model.onnx")
    asked = PackRequest(model, "net", "1", (profile(),), "fp32", output=tmp_path / "out")
    with pytest.raises(ConfigError, match="--calibration or --evaluation"):
        packed(asked)


def test_a_float_model_that_is_broken_itself(tmp_path: Path) -> None:
    model = save(_free_axis(), tmp_path / "model.onnx")
    calibration = save_npz(tmp_path / "data.npz", x=-np.ones((4, 3), np.float32))
    asked = PackRequest(model, "net", "1", (profile(),), "fp32", calibration, output=tmp_path / "out")
    with pytest.raises(ModelError, match="NaN or infinity in y"):
        packed(asked)


def test_labels_that_are_no_classes_of_the_model(data: Path, tmp_path: Path) -> None:
    evaluation = save_npz(tmp_path / "data.npz", image=images(3), labels=np.array([0, 4, 1]))
    with pytest.raises(LabelsError, match="0 to 3, found 4 in sample 1"):
        packed(request(data, tmp_path / "out", evaluation=evaluation))
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_model_is_said_before_that_data_is_missing(data: Path, tmp_path: Path) -> None:
    text = tmp_path / "model.onnx"
    text.write_text("no model")
    with pytest.raises(ModelError, match="not an ONNX file"):
        packed(request(data, tmp_path, model=text, recipe="auto", calibration=None))


def test_auto_without_calibration_says_what_to_do(data: Path, tmp_path: Path) -> None:
    """Rather than quietly packing something else."""
    with pytest.raises(
        CalibrationNeededError, match=r"`board` prefers static_wi8_ai8.*--calibration.*--recipe"
    ):
        packed(request(data, tmp_path, recipe="auto", calibration=None))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Not A Name"}, "--name"),
        ({"name": "../escape"}, "--name"),
        ({"version": "1.0-beta"}, "--version"),
        ({"version": ""}, "--version"),
        ({"evaluation": None, "max_drop_points": 1.0}, "--max-drop needs --evaluation"),
        ({"max_drop_points": float("nan")}, "--max-drop must be a number"),
        ({"profiles": ()}, "--profile"),
        ({"recipe": "int8"}, "there is no recipe"),
    ],
)
def test_requests_that_make_no_sense(data: Path, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """Found before the model is even read."""
    asked = request(data, tmp_path / "out", **({"model": Path("missing")} | changes))
    with pytest.raises(ConfigError, match=words):
        packed(asked)
    assert not (tmp_path / "out").exists()


def test_one_profile_that_no_runtime_serves_stops_all(data: Path, tmp_path: Path) -> None:
    unserved = profile("engine", runtimes=[{"name": "pytorch-mobile", "minimum_version": "2.0"}])
    with pytest.raises(UnservedProfileError, match="`engine`"):
        packed(request(data, tmp_path / "out", profile(), unserved))
    assert not (tmp_path / "out").exists()
