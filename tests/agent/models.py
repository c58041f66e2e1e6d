"""Small ONNX models and whole bundles, made on the spot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.chunks import build_index, index_sizes
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_agent.contract.manifest import (
    Artifact,
    ArtifactRole,
    Evidence,
    Manifest,
    ProbeLimits,
    RuntimeRequirement,
    TensorSpec,
    encode_manifest,
)
from packhorse_agent.contract.recipe import Fp32
from packhorse_agent.runtime.datatypes import Array
from packhorse_agent.runtime.golden import GoldenVectors, encode_golden

FEATURES, CLASSES = 4, 3
WEIGHTS: Array = np.random.default_rng(7).normal(size=(FEATURES, CLASSES)).astype(np.float32)


def linear_model(weights: Array = WEIGHTS, batch: int | str = "batch") -> bytes:
    """`scores = x @ weights`, x being FP32 [batch, FEATURES]."""
    node = helper.make_node("MatMul", ["x", "weights"], ["scores"])
    return single_node(
        node,
        {"x": (TensorProto.FLOAT, [batch, FEATURES])},
        {"scores": (TensorProto.FLOAT, [batch, CLASSES])},
        {"weights": weights},
    )


def single_node(
    node: onnx.NodeProto,
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    outputs: Mapping[str, tuple[int, Sequence[int | str]]],
    constants: Mapping[str, Array] | None = None,
) -> bytes:
    """A model of one node; tensors by name as (ONNX type, shape)."""
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


def linear_golden(weights: Array = WEIGHTS, count: int = 8) -> GoldenVectors:
    """Vectors for `linear_model`, with references computed by numpy."""
    inputs = np.random.default_rng(1).normal(size=(count, FEATURES)).astype(np.float32)
    scores = inputs @ weights
    return GoldenVectors({"x": inputs}, {"scores": scores}, {"scores": scores})


@dataclass(frozen=True)
class BundleOnDisk:
    """A bundle's folder, read by a worker as the supervisor would name its files."""

    manifest: Manifest
    manifest_path: Path
    artifacts: Mapping[ArtifactRole, Path]


def write_bundle(
    folder: Path,
    *,
    model: bytes | None = None,
    golden: GoldenVectors | None = None,
    inputs: tuple[TensorSpec, ...] = (TensorSpec(name="x", datatype="FP32", shape=(-1, FEATURES)),),
    outputs: tuple[TensorSpec, ...] = (TensorSpec(name="scores", datatype="FP32", shape=(-1, CLASSES)),),
    version: str = "1.0.0",
    probe: ProbeLimits | None = None,
    runtime: RuntimeRequirement | None = None,
) -> BundleOnDisk:
    """A whole valid bundle; a test replaces the part that it wants broken."""
    folder.mkdir(parents=True, exist_ok=True)
    golden = golden or linear_golden()
    contents = {
        ArtifactRole.MODEL: ("model.onnx", model if model is not None else linear_model()),
        ArtifactRole.GOLDEN: ("golden.npz", encode_golden(golden)),
    }
    artifacts = {role: folder / file for role, (file, _) in contents.items()}
    for role, (_, data) in contents.items():
        artifacts[role].write_bytes(data)
    manifest = Manifest(
        model="linear",
        version=version,
        profile="generic-x86_64",
        recipe=Fp32(),
        runtime=runtime or RuntimeRequirement(name="onnxruntime", minimum_version="1.20"),
        inputs=inputs,
        outputs=outputs,
        artifacts=tuple(_artifact(role, file, data) for role, (file, data) in contents.items()),
        probe=probe or probe_limits(golden.count),
        evidence=_evidence(),
        tools={},
    )
    path = folder / "manifest.json"
    path.write_bytes(encode_manifest(manifest))
    return BundleOnDisk(manifest, path, artifacts)


def probe_limits(
    vectors: int, sqnr_min_db: float = 60.0, agreement_min_percent: float = 99.0, classification: bool = True
) -> ProbeLimits:
    """Limits that an exact replay passes with ease."""
    return ProbeLimits(
        sqnr_min_db=sqnr_min_db,
        agreement_min_percent=agreement_min_percent,
        decision_margin=0.01,
        vectors=vectors,
        classification=classification,
    )


def _artifact(role: ArtifactRole, file: str, data: bytes) -> Artifact:
    size = max(len(data), 1)
    parts = [data[at : at + CHUNK_SIZE_BYTES] for at in range(0, len(data), CHUNK_SIZE_BYTES)]
    levels = build_index(bytes.fromhex(sha256_hex(part)) for part in parts)
    assert len(levels) == len(index_sizes(size))
    return Artifact(
        role=role,
        file=file,
        sha256=sha256_hex(data),
        size_bytes=size,
        chunk_index=tuple(sha256_hex(level) for level in levels),
    )


def _evidence() -> Evidence:
    return Evidence(
        quality=None,
        max_drop_points=None,
        sqnr_db=None,
        size_fp32_bytes=1,
        size_bytes=1,
        integer_kernels=0,
        compute_kernels=1,
        calibration_sha256=None,
        calibration_samples=0,
        source_sha256=sha256_hex(b""),
    )
