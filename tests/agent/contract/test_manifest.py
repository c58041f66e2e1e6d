"""The manifest describes a bundle completely, and the same bundle always with the same bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from packhorse_agent.contract.limits import ARTIFACTS_MAX, MANIFEST_MAX_BYTES
from packhorse_agent.contract.manifest import ArtifactRole, Manifest, encode_manifest
from tests.agent.contract.strategies import manifests

DIGEST = "0" * 64


def artifact(role: str, file: str, size_bytes: int = 10, **changes: Any) -> dict[str, Any]:
    return {"role": role, "file": file, "sha256": DIGEST, "size_bytes": size_bytes, **changes}


def plain_manifest(**changes: Any) -> dict[str, Any]:
    """A valid manifest as JSON, which a test breaks in one place."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 3]}
    evidence = {
        "quality": None,
        "max_drop_points": None,
        "sqnr_db": None,
        "size_fp32_bytes": 1,
        "size_bytes": 1,
        "integer_kernels": 0,
        "compute_kernels": 1,
        "calibration_sha256": None,
        "calibration_samples": 0,
        "source_sha256": DIGEST,
    }
    probe = {
        "sqnr_min_db": 20.0,
        "agreement_min_percent": 99.0,
        "decision_margin": 0.1,
        "vectors": 8,
        "classification": True,
    }
    return {
        "format": 1,
        "model": "fashion",
        "version": "1.0",
        "profile": "raspberry-pi-5",
        "recipe": {"name": "fp32"},
        "runtime": {"name": "onnxruntime", "minimum_version": "1.20"},
        "inputs": [tensor],
        "outputs": [tensor],
        "artifacts": [artifact("model", "model.onnx"), artifact("golden", "golden.npz")],
        "probe": probe,
        "evidence": evidence,
        "tools": {},
        **changes,
    }


@given(manifests())
def test_a_manifest_reads_back_and_is_one_chunk(manifest: Manifest) -> None:
    encoded = encode_manifest(manifest)
    assert Manifest.model_validate_json(encoded) == manifest
    assert len(encoded) <= MANIFEST_MAX_BYTES


def test_a_field_of_a_later_version_is_ignored() -> None:
    assert Manifest.model_validate(plain_manifest(colour="red")) == Manifest.model_validate(plain_manifest())


def test_artifacts_are_found_by_role() -> None:
    manifest = Manifest.model_validate(plain_manifest())
    golden = manifest.artifact(ArtifactRole.GOLDEN)
    assert golden is not None
    assert golden.file == "golden.npz"
    assert manifest.artifact(ArtifactRole.LABELS) is None
    assert manifest.total_size_bytes() == 20


MODEL, GOLDEN = artifact("model", "model.onnx"), artifact("golden", "golden.npz")
LABELS = [artifact("labels", f"labels{at}") for at in range(ARTIFACTS_MAX)]
BROKEN: dict[str, dict[str, Any]] = {
    "another format": {"format": 2},
    "a name with a slash": {"model": "a/b"},
    "a version in words": {"version": "latest"},
    "a recipe with an unsafe name": {"recipe": {"name": "../magic"}},
    "a recipe without a name": {"recipe": {}},
    "an unknown runtime": {"runtime": {"name": "abacus", "minimum_version": "1"}},
    "no thread": {"runtime": {"name": "onnxruntime", "minimum_version": "1", "threads": 0}},
    "no input": {"inputs": []},
    "no output": {"outputs": []},
    "an unknown datatype": {"inputs": [{"name": "x", "datatype": "FLOAT", "shape": [1]}]},
    "a negative dimension": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-2]}]},
    "no artifact": {"artifacts": []},
    "no model": {"artifacts": [GOLDEN]},
    "no golden vectors": {"artifacts": [MODEL]},
    "two models": {"artifacts": [MODEL, artifact("model", "other.onnx"), GOLDEN]},
    "one file for two artifacts": {"artifacts": [MODEL, artifact("golden", "model.onnx")]},
    "an artifact in the manifest's place": {"artifacts": [MODEL, artifact("golden", "manifest.json")]},
    "a path that leaves the bundle": {"artifacts": [artifact("model", "../model.onnx"), GOLDEN]},
    "an empty artifact": {"artifacts": [artifact("model", "model.onnx", 0), GOLDEN]},
    "an artifact beyond all bounds": {"artifacts": [artifact("model", "model.onnx", 2**60), GOLDEN]},
    "a large artifact without its index": {"artifacts": [artifact("model", "model.onnx", 65537), GOLDEN]},
    "a small artifact with an index": {
        "artifacts": [artifact("model", "model.onnx", 65536, chunk_index=[DIGEST]), GOLDEN]
    },
    "too many artifacts": {"artifacts": [MODEL, GOLDEN, *LABELS]},
    "a bad digest": {"artifacts": [artifact("model", "model.onnx", sha256="x"), GOLDEN]},
}


@pytest.mark.parametrize("changes", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_manifest_is_refused(changes: dict[str, Any]) -> None:
    Manifest.model_validate(plain_manifest())
    with pytest.raises(ValidationError):
        Manifest.model_validate(plain_manifest(**changes))
