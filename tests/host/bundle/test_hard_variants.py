"""The sample, written so that plain quantization breaks it, is brought back by the search."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from packhorse_agent.profiles import find_profile
from packhorse_host.bundle.pack import PackedBundle, pack
from packhorse_host.bundle.request import PackRequest
from variants_builder.hard import make_hard

SAMPLE = Path(__file__).parents[3] / "samples" / "fashion-mnist"


@pytest.fixture(scope="module", params=[4, 6])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PackedBundle:
    folder = tmp_path_factory.mktemp("hard")
    hard = make_hard(onnx.load(SAMPLE / "model.onnx"), spread_log2=request.param, seed=0)
    onnx.save(hard, folder / "model.onnx")
    asked = PackRequest(
        folder / "model.onnx",
        "hard",
        "1.0",
        [find_profile("raspberry-pi-5")],
        calibration=SAMPLE / "calibration.npz",
        evaluation=SAMPLE / "evaluation.npz",
        max_drop_points=0.5,
        output=folder / "bundles",
    )
    return pack(asked, lambda text: None)[0]


def test_plain_quantization_breaks_it(bundle: PackedBundle) -> None:
    assert bundle.search is not None
    plain = bundle.search.tried[1].score
    assert plain is not None
    assert plain.quality is not None
    assert plain.quality.drop_points > 5


def test_auto_brings_it_back_in_integers(bundle: PackedBundle) -> None:
    evidence = bundle.manifest.evidence
    assert evidence.quality is not None
    assert evidence.quality.drop_points <= 0.5
    assert evidence.integer_kernels == evidence.compute_kernels == 24
    assert evidence.recipe_reason is not None
