"""Bundles that cannot be loaded, and models that are too large for their worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from packhorse_agent.contract.manifest import ArtifactRole, RuntimeRequirement, TensorSpec
from packhorse_agent.deploy.worker_process import Exited, Loaded, LoadFailed
from packhorse_agent.runtime.golden import GoldenVectors
from tests.agent.models import BundleOnDisk, linear_model, single_node, write_bundle
from tests.agent.workers import Stable, stable

MIB = 1024 * 1024


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Stable]:
    with stable(tmp_path) as owner:
        yield owner


def damaged(bundle: BundleOnDisk, role: ArtifactRole, data: bytes) -> BundleOnDisk:
    bundle.artifacts[role].write_bytes(data)
    return bundle


def without(bundle: BundleOnDisk, role: ArtifactRole) -> BundleOnDisk:
    return replace(bundle, artifacts={kept: path for kept, path in bundle.artifacts.items() if kept != role})


def other_manifest(bundle: BundleOnDisk, data: bytes) -> BundleOnDisk:
    bundle.manifest_path.write_bytes(data)
    return bundle


def bad_bundle(case: str, folder: Path) -> BundleOnDisk:
    bundle = write_bundle(folder)
    match case:
        case "model is not ONNX":
            return damaged(bundle, ArtifactRole.MODEL, b"\x00 nonsense")
        case "model is truncated":
            return damaged(bundle, ArtifactRole.MODEL, linear_model()[:-30])
        case "model is missing":
            return without(bundle, ArtifactRole.MODEL)
        case "golden is missing":
            bundle.artifacts[ArtifactRole.GOLDEN].unlink()
            return bundle
        case "golden is damaged":
            return damaged(bundle, ArtifactRole.GOLDEN, b"PK")
        case "golden for another model":
            rows = np.ones((8, 9), np.float32)
            return write_bundle(folder, golden=GoldenVectors({"x": rows}, {"scores": rows}, {"scores": rows}))
        case "manifest is no JSON":
            return other_manifest(bundle, b"{")
        case "manifest is huge":
            return other_manifest(bundle, b" " * 100_000)
        case "runtime is missing":
            requirement = RuntimeRequirement(name="executorch", minimum_version="1.0")
            return write_bundle(folder, runtime=requirement)
    raise AssertionError(case)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("model is not ONNX", "ONNX Runtime does not load the model"),
        ("model is truncated", "ONNX Runtime does not load the model"),
        ("model is missing", "no model artifact"),
        ("golden is missing", "cannot be read"),
        ("golden is damaged", "golden vectors"),
        ("golden for another model", "golden input x"),
        ("manifest is no JSON", "manifest is not valid"),
        ("manifest is huge", "manifest is over"),
        ("runtime is missing", "executorch is not installed: install executorch>=1.0"),
    ],
)
def test_a_bundle_that_cannot_be_loaded_says_why(case: str, words: str, workers: Stable) -> None:
    worker = workers.start(workers.spec(bad_bundle(case, workers.folder / "bad")))
    worker.load()
    assert words in workers.expect(LoadFailed, worker).detail
    exited = workers.expect(Exited, worker)
    assert exited.returncode == 3
    assert any(words in line for line in exited.last_log_lines)


def hungry_bundle(folder: Path) -> BundleOnDisk:
    """Its one operator fills 2 GiB."""
    node = helper.make_node("Expand", ["x", "shape"], ["scores"])
    model = single_node(
        node,
        {"x": (TensorProto.FLOAT, [1, 1])},
        {"scores": (TensorProto.FLOAT, [1, 512 * MIB])},
        {"shape": np.array([1, 512 * MIB], np.int64)},
    )
    one = np.ones((1, 1), np.float32)
    return write_bundle(
        folder,
        model=model,
        golden=GoldenVectors({"x": one}, {"scores": one}, {"scores": one}),
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(1, 1)),),
        outputs=(TensorSpec(name="scores", datatype="FP32", shape=(1, 512 * MIB)),),
    )


def test_a_model_over_the_memory_limit_takes_only_its_worker_down(workers: Stable) -> None:
    spec = workers.spec(hungry_bundle(workers.folder / "hungry"), memory_limit_bytes=300 * MIB)
    worker = workers.start(spec)
    worker.load()
    event = workers.next_event()
    assert isinstance(event, LoadFailed | Exited)
    if isinstance(event, LoadFailed):
        assert "memory" in event.detail.lower() or "alloc" in event.detail.lower()
        workers.expect(Exited, worker)
    fits = workers.start(workers.spec(memory_limit_bytes=300 * MIB))
    fits.load()
    workers.expect(Loaded, fits)


def test_a_limit_that_nothing_fits_ends_in_words_or_an_exit(workers: Stable) -> None:
    worker = workers.start(workers.spec(memory_limit_bytes=16 * MIB))
    worker.load()
    exited = workers.wait_for(Exited, worker)
    assert exited.returncode != 0
