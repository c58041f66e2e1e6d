"""A real worker that serves a bundle whose runtime is LiteRT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed (packhorse[litert])")

from packhorse_agent.contract.manifest import RuntimeRequirement
from packhorse_agent.deploy.worker_process import LoadFailed, Probed
from tests.agent.models import WEIGHTS, write_bundle
from tests.agent.tflite_models import custom_tflite, linear_tflite
from tests.agent.workers import Stable, stable

LITERT = RuntimeRequirement(name="litert", minimum_version="2.1")


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Stable]:
    with stable(tmp_path) as owner:
        yield owner


def test_its_golden_vectors_pass(workers: Stable, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "good", model=linear_tflite(), runtime=LITERT)
    worker = workers.loaded(workers.spec(bundle))
    worker.probe()
    assert workers.expect(Probed, worker).result.passed


def test_a_wrong_model_fails_its_golden_vectors(workers: Stable, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "wrong", model=linear_tflite(-WEIGHTS), runtime=LITERT)
    worker = workers.loaded(workers.spec(bundle))
    worker.probe()
    assert not workers.expect(Probed, worker).result.passed


def test_a_model_with_an_unknown_operator_does_not_load(workers: Stable, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "odd", model=custom_tflite(), runtime=LITERT)
    worker = workers.start(workers.spec(bundle))
    worker.load()
    workers.expect(LoadFailed, worker)
