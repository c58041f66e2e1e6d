"""The reference page names everything there is, and its example runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from packhorse_agent.contract.manifest import BuiltInMetric
from packhorse_host.evaluate.metrics.base import Truth
from packhorse_host.evaluate.metrics.registry import load_metric
from packhorse_host.evaluate.preprocessing import AudioPreprocessing, ImagePreprocessing, TokenPreprocessing
from packhorse_host.evaluate.read import TRUTH_NAMES
from packhorse_host.evaluate.sources.images import IMAGE_SUFFIXES

PAGE = (Path(__file__).parents[3] / "docs/reference/evaluation.md").read_text()


@pytest.mark.parametrize("name", [*get_args(BuiltInMetric), *TRUTH_NAMES])
def test_metrics_and_truth_are_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("kind", [ImagePreprocessing, AudioPreprocessing, TokenPreprocessing])
def test_keys_of_descriptions_are_on_the_page(kind: Any) -> None:
    page = PAGE.split("## Preprocessing")[1]
    for key in kind.model_fields:
        assert f"`{key}`" in page or f'"{key}"' in page, key


def test_kinds_of_images_are_on_the_page() -> None:
    kinds = {suffix.strip(".").upper().replace("JPG", "JPEG") for suffix in IMAGE_SUFFIXES}
    names = {"TIF": "TIFF", "PGM": "PPM", "WEBP": "WebP"}
    assert [kind for kind in sorted(kinds) if names.get(kind, kind) not in PAGE] == []


def test_the_example_of_an_own_metric_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "documented_metric.py").write_text("\n".join(blocks))
    monkeypatch.syspath_prepend(tmp_path)
    metric = load_metric("documented_metric:Metric")
    joints = np.zeros((3, 5, 2))
    truth = Truth(3, {"joints": joints + np.array([3, 4])})
    assert metric.aggregate(metric.per_sample({"joints": joints}, truth)) == 5.0
