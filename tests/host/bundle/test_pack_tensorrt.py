"""Packing for TensorRT on a machine without it: ONNX Runtime computes in its place, and it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from packhorse_agent.profiles import find_profile
from packhorse_host.bundle.pack import PackedBundle, pack
from packhorse_host.bundle.request import PackRequest, plan
from packhorse_host.bundle.settings import Settings
from packhorse_host.evaluate.evaluation import open_subject
from packhorse_host.quantize.emit_tensorrt import NOTES
from packhorse_host.quantize.errors import ModelError, UnsupportedRecipeError

SAMPLE = Path(__file__).parents[3] / "samples" / "fashion-mnist"
ORIN = find_profile("jetson-orin-nano")


def request(folder: Path, **changes: Any) -> PackRequest:
    settings: dict[str, Any] = {
        "model": SAMPLE / "model.onnx",
        "profiles": [ORIN],
        "recipe": "static_wi8_ai8",
        "calibration": SAMPLE / "calibration.npz",
        "runtime": "tensorrt",
        "output": folder / "bundles",
    }
    return PackRequest(name="fashion", version="1.0", **{**settings, **changes})


def silently(text: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> PackedBundle:
    (packed,) = pack(request(tmp_path_factory.mktemp("pack")), silently)
    return packed


def test_the_bundle_is_for_tensorrt_and_holds_pairs(bundle: PackedBundle) -> None:
    manifest = bundle.manifest
    assert manifest.runtime.name == "tensorrt"
    assert manifest.runtime.minimum_version == "10.3"
    assert manifest.recipe.model_dump()["symmetric_activations"] is True
    assert bundle.model.name == "model.onnx"
    operators = {node.op_type for node in onnx.load(bundle.model).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= operators
    evidence = manifest.evidence
    assert evidence.integer_kernels == evidence.compute_kernels > 0
    assert evidence.size_bytes < 0.7 * evidence.size_fp32_bytes
    assert evidence.sqnr_db is not None and evidence.sqnr_db > 15


def test_what_was_measured_with_another_runtime_is_said(bundle: PackedBundle) -> None:
    assert bundle.measurement.machine.runtime == "onnxruntime"
    assert not bundle.measurement.verified
    assert set(NOTES) <= set(bundle.notices)


def test_a_bundle_can_be_evaluated_here(bundle: PackedBundle) -> None:
    subject = open_subject(bundle.folder)
    assert [spec.name for spec in subject.session.inputs] == ["image"]


def test_the_profile_prefers_the_processor_unless_told_otherwise(tmp_path: Path) -> None:
    (target,) = plan(request(tmp_path, runtime=None))
    assert target.requirement.name == "onnxruntime"


def test_half_precision_is_packed(tmp_path: Path) -> None:
    (packed,) = pack(request(tmp_path, recipe="fp16", calibration=None), silently)
    assert packed.manifest.evidence.size_bytes < 0.7 * packed.manifest.evidence.size_fp32_bytes


def test_a_search_finds_a_recipe_and_races_nothing(tmp_path: Path) -> None:
    asked = request(tmp_path, recipe="auto", search_seconds=20.0)
    (packed,) = pack(asked, silently)
    assert packed.search is not None
    assert all(point.race is None for point in packed.search.tried)
    assert packed.manifest.recipe.name in ("static_wi8_ai8", "mixed_wi8_ai8")
    assert "latency was not measured" in (packed.manifest.evidence.recipe_reason or "")


def test_without_data_it_is_calibrated_on_made_up_inputs(tmp_path: Path) -> None:
    asked = request(tmp_path, calibration=None, settings=Settings(data_free=True))
    (target,) = plan(asked)
    assert target.recipe.data_free is True  # type: ignore[union-attr]
    (packed,) = pack(asked, silently)
    assert packed.manifest.evidence.data_free is not None


def test_a_recipe_that_tensorrt_has_not_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedRecipeError, match="tensorrt cannot have recipe dynamic_wi8_afp32"):
        pack(request(tmp_path, recipe="dynamic_wi8_afp32"), silently)
    assert not (tmp_path / "bundles").exists()


def test_a_packed_model_is_not_packed_again(bundle: PackedBundle, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="quantized already"):
        pack(request(tmp_path, model=bundle.model), silently)
