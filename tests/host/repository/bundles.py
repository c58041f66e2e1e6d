"""Valid bundle folders, made quickly, that a test can break in one place."""

from __future__ import annotations

import hashlib
from pathlib import Path

from packhorse_agent.contract.base import canonical_json, sha256_hex
from packhorse_agent.contract.chunks import build_index
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_agent.contract.manifest import (
    Artifact,
    ArtifactRole,
    Evidence,
    Interval,
    Manifest,
    ProbeLimits,
    RuntimeRequirement,
    TensorSpec,
    encode_manifest,
)
from packhorse_agent.contract.measurement import LatencySummary, Machine, Measurement
from packhorse_agent.contract.recipe import Fp32, StaticWi8Ai8


def make_bundle(
    folder: Path,
    model: str = "detector",
    version: str = "1.0",
    profile: str = "raspberry-pi-5",
    recipe: str = "static_wi8_ai8",
    content: bytes = b"weights",
) -> Path:
    """A bundle whose model artifact is `content`."""
    folder.mkdir(parents=True)
    artifacts = (
        _artifact(folder, ArtifactRole.MODEL, "model.onnx", content),
        _artifact(folder, ArtifactRole.GOLDEN, "golden.npz", b"golden"),
    )
    (folder / "manifest.json").write_bytes(
        encode_manifest(make_manifest(artifacts, model, version, profile, recipe))
    )
    return folder


def make_manifest(
    artifacts: tuple[Artifact, ...], model: str, version: str, profile: str, recipe: str
) -> Manifest:
    tensor = (TensorSpec(name="x", datatype="FP32", shape=(-1, 3)),)
    return Manifest(
        model=model,
        version=version,
        profile=profile,
        recipe=Fp32() if recipe == "fp32" else StaticWi8Ai8(),
        runtime=RuntimeRequirement(name="onnxruntime", minimum_version="1.20"),
        inputs=tensor,
        outputs=tensor,
        artifacts=artifacts,
        probe=ProbeLimits(
            sqnr_min_db=20, agreement_min_percent=99, decision_margin=0, vectors=1, classification=True
        ),
        evidence=Evidence(
            quality=None,
            max_drop_points=None,
            sqnr_db=None,
            size_fp32_bytes=10,
            size_bytes=5,
            integer_kernels=1,
            compute_kernels=1,
            calibration_sha256=None,
            calibration_samples=0,
            source_sha256="0" * 64,
        ),
        tools={},
    )


def add_measurement(folder: Path, speedup: float = 2.0) -> None:
    latency = LatencySummary(latency_p50_us=1, latency_p95_us=2, latency_p99_us=3, inferences=100)
    machine = Machine(
        architecture="x86_64",
        cpu_model="c",
        cpu_features=(),
        runtime="onnxruntime",
        runtime_version="1.20",
        threads=1,
    )
    measurement = Measurement(
        manifest_sha256=sha256_hex((folder / "manifest.json").read_bytes()),
        machine=machine,
        fp32=latency,
        bundle=latency,
        speedup=speedup,
        speedup_ci95=Interval(low=1, high=3),
        verified=False,
    )
    (folder / "measurement.json").write_bytes(canonical_json(measurement))


def _artifact(folder: Path, role: ArtifactRole, file: str, content: bytes) -> Artifact:
    (folder / file).write_bytes(content)
    chunks = [content[at : at + CHUNK_SIZE_BYTES] for at in range(0, len(content), CHUNK_SIZE_BYTES)]
    levels = build_index(hashlib.sha256(chunk).digest() for chunk in chunks)
    return Artifact(
        role=role,
        file=file,
        sha256=sha256_hex(content),
        size_bytes=len(content),
        chunk_index=tuple(sha256_hex(level) for level in levels),
    )
