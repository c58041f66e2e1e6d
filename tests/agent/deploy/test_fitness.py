"""What a device takes, and why it refuses the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from packhorse_agent.contract.manifest import Manifest, RuntimeRequirement
from packhorse_agent.contract.rollout import BundleRef
from packhorse_agent.contract.states import FailureReason
from packhorse_agent.deploy.fitness import DeviceFitness, check_fitness
from packhorse_agent.deploy.model import Attempt
from tests.agent.models import write_bundle

DEVICE = DeviceFitness("generic-x86_64", None, {"onnxruntime": "1.23.2"}, 10**9)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_bundle(tmp_path).manifest


def attempt(**changes: Any) -> Attempt:
    bundle = BundleRef(target="bundles/x", sha256="0" * 64, size_bytes=1)
    fields: dict[str, Any] = {"model": "linear", "version": "1.0.0", **changes}
    return Attempt(rollout_id="r1", generation=1, bundle=bundle, **fields)


def requiring(manifest: Manifest, name: str, minimum: str) -> Manifest:
    runtime = RuntimeRequirement(name=name, minimum_version=minimum)
    return manifest.model_copy(update={"runtime": runtime})


def test_a_bundle_that_fits_is_taken(manifest: Manifest) -> None:
    assert check_fitness(manifest, attempt(), DEVICE) is None


@pytest.mark.parametrize("minimum", ["1", "1.23", "1.23.2", "1.9.9"])
def test_versions_are_compared_by_number(manifest: Manifest, minimum: str) -> None:
    assert check_fitness(requiring(manifest, "onnxruntime", minimum), attempt(), DEVICE) is None


@pytest.mark.parametrize(
    ("order", "device", "reason", "detail"),
    [
        ({"model": "other"}, {}, FailureReason.WRONG_MODEL, "names other 1.0.0, the bundle holds linear"),
        ({"version": "1.0.1"}, {}, FailureReason.WRONG_MODEL, "linear 1.0.1, the bundle holds linear 1.0.0"),
        ({}, {"profile": "raspberry-pi-5"}, FailureReason.WRONG_PROFILE, "this device is raspberry-pi-5"),
        ({}, {"hardware_problem": "no ARM"}, FailureReason.INCOMPATIBLE_HARDWARE, "no ARM"),
        ({}, {"runtimes": {}}, FailureReason.RUNTIME_MISSING, "install packhorse[onnxruntime]"),
        ({}, {"runtimes": {"litert": "2.1"}}, FailureReason.RUNTIME_MISSING, "onnxruntime is not installed"),
        ({}, {"runtimes": {"onnxruntime": "1.9"}}, FailureReason.RUNTIME_MISSING, "needs 1.20 or newer"),
        ({}, {"runtimes": {"onnxruntime": "dev"}}, FailureReason.RUNTIME_MISSING, "onnxruntime dev is"),
        ({}, {"storage_budget_bytes": 10}, FailureReason.STORAGE_FULL, "storage budget of 10 bytes"),
    ],
)
def test_what_does_not_fit_is_rejected(
    manifest: Manifest, order: dict[str, Any], device: dict[str, Any], reason: FailureReason, detail: str
) -> None:
    found = check_fitness(manifest, attempt(**order), replace(DEVICE, **device))
    assert found is not None
    assert (found.reason, found.rejected) == (reason, True)
    assert detail in found.detail


def test_the_budget_is_a_bound_not_a_goal(manifest: Manifest) -> None:
    need = manifest.total_size_bytes()
    assert check_fitness(manifest, attempt(), replace(DEVICE, storage_budget_bytes=need)) is None
    assert check_fitness(manifest, attempt(), replace(DEVICE, storage_budget_bytes=need - 1)) is not None
