"""Packing for another runtime than ONNX Runtime: which is chosen, and what is in the bundle."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("ai_edge_quantizer", reason="ai-edge-quantizer is not installed (packhorse[litert-pack])")

from packhorse_agent.contract.manifest import ArtifactRole
from packhorse_agent.contract.profile import RuntimeName
from packhorse_agent.profiles import find_profile
from packhorse_agent.runtime.base import open_model
from packhorse_agent.runtime.golden import compare, read_golden, replay
from packhorse_host.bundle.pack import pack
from packhorse_host.bundle.request import PackRequest, plan
from packhorse_host.convert.errors import UnsupportedConversionError
from packhorse_host.errors import ConfigError
from packhorse_host.quantize.errors import ModelError, UnservedProfileError
from packhorse_host.quantize.recipes import choose_recipe, choose_runtime

REPOSITORY = Path(__file__).parents[3]
TFLITE = REPOSITORY / "tests" / "data" / "fashion-mnist.tflite"
SAMPLE = REPOSITORY / "samples" / "fashion-mnist"
ANDROID, PI = find_profile("android-arm64"), find_profile("raspberry-pi-5")


def request(folder: Path, model: Path = TFLITE, **changes: object) -> PackRequest:
    settings: dict[str, object] = {
        "profiles": [ANDROID],
        "recipe": "static_wi8_ai8",
        "calibration": SAMPLE / "calibration.npz",
        "output": folder / "bundles",
    }
    return PackRequest(model, "fashion", "1.0", **{**settings, **changes})  # type: ignore[arg-type]


def silently(text: str) -> None:
    """Nobody listens."""


def test_a_tflite_model_is_packed_for_litert(tmp_path: Path) -> None:
    (bundle,) = pack(request(tmp_path), silently)
    manifest = bundle.manifest
    assert manifest.runtime.name == "litert"
    assert bundle.model.name == "model.tflite"
    assert bundle.model.read_bytes()[4:8] == b"TFL3"
    assert (manifest.evidence.integer_kernels, manifest.evidence.compute_kernels) == (24, 24)
    assert manifest.evidence.size_bytes < 0.6 * manifest.evidence.size_fp32_bytes
    assert manifest.evidence.sqnr_db is not None and manifest.evidence.sqnr_db > 20
    assert {"ai-edge-litert", "ai-edge-quantizer"} <= set(manifest.tools)
    assert [spec.name for spec in (*manifest.inputs, *manifest.outputs)] == ["image", "logits"]
    assert bundle.measurement.machine.runtime == "litert"


def test_a_device_that_computes_alike_passes_the_probe(tmp_path: Path) -> None:
    (bundle,) = pack(request(tmp_path), silently)
    manifest = bundle.manifest
    session = open_model(bundle.model, manifest.runtime, manifest.inputs, manifest.outputs)
    golden = read_golden(bundle.folder / "golden.npz")
    answer = replay(session.run, manifest.inputs, golden, time.perf_counter)
    result = compare(golden, answer, manifest.probe, manifest.outputs)
    assert result.passed, result.detail
    assert result.bit_exact


def test_the_same_request_gives_the_same_bundle(tmp_path: Path) -> None:
    digests = [pack(request(tmp_path / name), silently)[0].digest for name in ("one", "two")]
    assert digests[0] == digests[1]


def test_each_runtime_has_its_file_name_for_the_model(tmp_path: Path) -> None:
    (bundle,) = pack(request(tmp_path, SAMPLE / "model.onnx", recipe="fp32"), silently)
    assert bundle.manifest.runtime.name == "onnxruntime"
    files = [entry.file for entry in bundle.manifest.artifacts if entry.role is ArtifactRole.MODEL]
    assert files == ["model.onnx"] == [bundle.model.name]


def test_a_profile_that_no_conversion_reaches_is_refused_with_what_works(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedConversionError, match="pack it for litert"):
        plan(request(tmp_path, profiles=[PI]))


@pytest.mark.parametrize("runtime", ["litert", "tflite-runtime", "tensorrt"])
def test_a_runtime_that_the_profile_has_not_is_refused(runtime: RuntimeName, tmp_path: Path) -> None:
    with pytest.raises(UnservedProfileError, match=runtime):
        plan(request(tmp_path, profiles=[PI], runtime=runtime))


def test_the_profiles_order_counts_among_those_that_are_possible() -> None:
    assert choose_runtime(ANDROID).name == "onnxruntime"
    only: tuple[RuntimeName, ...] = ("litert",)
    assert choose_runtime(ANDROID, possible=only).name == "litert"
    assert choose_runtime(ANDROID, "litert").name == "litert"


def test_recipes_are_as_litert_wants_them() -> None:
    dynamic = choose_recipe("dynamic_wi8_afp32", ANDROID, "litert")
    assert "Conv" in dynamic.operators  # type: ignore[union-attr,operator]
    assert choose_recipe("weight_only_wi4_afp32", ANDROID, "litert").block_size is None  # type: ignore[union-attr]
    assert choose_recipe("static_wi8_ai8", find_profile("generic-x86_64"), "litert").activation_type == "int8"  # type: ignore[union-attr]


def test_a_quantized_model_is_packed_as_it_is_or_not_at_all(tmp_path: Path) -> None:
    (bundle,) = pack(request(tmp_path), silently)
    with pytest.raises(ModelError, match="quantized already"):
        pack(request(tmp_path / "again", bundle.model), silently)


def test_data_free_calibration_is_refused_for_litert(tmp_path: Path) -> None:
    from packhorse_host.bundle.settings import Settings

    with pytest.raises(ConfigError, match="ONNX"):
        pack(request(tmp_path, calibration=None, settings=Settings(data_free=True)), silently)
