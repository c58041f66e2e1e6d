"""Packing with no data at all: said so, checked against FP32, and refused where it strays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from packhorse_agent.contract.manifest import DataFreeCheck, Evidence
from packhorse_agent.contract.recipe import StaticWi8Ai8
from packhorse_agent.runtime.datatypes import Array
from packhorse_agent.runtime.golden import GoldenVectors
from packhorse_host.bundle.errors import DataFreeError
from packhorse_host.bundle.pack import PackedBundle, pack
from packhorse_host.bundle.request import PackRequest
from packhorse_host.bundle.rules import Rule, broken_rules
from packhorse_host.bundle.settings import Settings
from packhorse_host.errors import BadInputError, ConfigError
from packhorse_host.evaluate.vectors import margins
from tests.host.float_models import cnn, decisions, images, profile, save, save_npz

RECIPE = StaticWi8Ai8(data_free=True, equalize=True, correct_bias=True)
PREPROCESSING = {"layout": "NCHW", "channels": ["gray"], "height_px": 8, "width_px": 8}


def request(folder: Path, **changes: Any) -> PackRequest:
    content: dict[str, Any] = {
        "model": save(cnn(), folder / "model.onnx"),
        "name": "detector",
        "version": "1.0",
        "profiles": [profile()],
        "recipe": "static_wi8_ai8",
        "settings": Settings(data_free=True),
        "output": folder / "bundles",
    }
    return PackRequest(**(content | changes))


def described(folder: Path, **changes: Any) -> Path:
    path = folder / "preprocessing.json"
    path.write_text(json.dumps(PREPROCESSING | changes))
    return path


def packed(asked: PackRequest) -> PackedBundle:
    (bundle,) = pack(asked, lambda text: None)
    return bundle


def evaluation(folder: Path) -> Path:
    """64 images that the float model is sure of: one with random weights seldom is."""
    session = onnxruntime.InferenceSession(cnn().SerializeToString(), providers=["CPUExecutionProvider"])
    drawn = images(512, seed=7)
    data: Array = drawn[np.argsort(margins(session.run(None, {"image": drawn})[0]))[-64:]]
    return save_npz(folder / "evaluation.npz", image=data, labels=decisions(cnn(), data))


def test_the_manifest_says_that_nobody_gave_data(tmp_path: Path) -> None:
    bundle = packed(request(tmp_path, preprocessing=described(tmp_path)))
    evidence = bundle.manifest.evidence
    assert StaticWi8Ai8.model_validate(bundle.manifest.recipe.model_dump()) == RECIPE
    assert evidence.data_free is not None
    assert evidence.data_free.inputs == "synthesized"
    assert evidence.calibration_samples == 128
    assert any("made-up inputs" in notice for notice in bundle.notices)
    assert any("golden vectors are made up" in notice for notice in bundle.notices)


def test_an_evaluation_set_is_what_it_is_held_against(tmp_path: Path) -> None:
    bundle = packed(request(tmp_path, evaluation=evaluation(tmp_path)))
    check = bundle.manifest.evidence.data_free
    assert check is not None
    assert (check.inputs, check.samples) == ("evaluation", 64)
    assert check.agreement_percent is not None
    assert check.agreement_percent >= 95


def test_the_same_request_gives_the_same_bundle(tmp_path: Path) -> None:
    first = packed(request(tmp_path, output=tmp_path / "first"))
    assert packed(request(tmp_path, output=tmp_path / "second")).digest == first.digest


def test_inputs_of_another_scale_are_refused(tmp_path: Path) -> None:
    """Made up for pixels up to 1/100, evaluated on normal ones."""
    wrong = described(tmp_path, standard_deviation=[100.0])
    with pytest.raises(DataFreeError, match="evaluation samples, 95 % are needed; --allow data-free"):
        packed(request(tmp_path, evaluation=evaluation(tmp_path), preprocessing=wrong))


def test_a_refusal_can_be_overridden_by_name(tmp_path: Path) -> None:
    wrong = described(tmp_path, standard_deviation=[100.0])
    asked = request(tmp_path, evaluation=evaluation(tmp_path), preprocessing=wrong)
    allowed = frozenset({Rule.DATA_FREE, Rule.CONSTANT_OUTPUT})
    bundle = packed(PackRequest(**(vars(asked) | {"allowed": allowed})))
    assert "data-free" in bundle.manifest.evidence.overrides


def test_it_is_never_silent(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--data-free"):
        packed(request(tmp_path, settings=Settings()))


def test_data_and_none_contradict_one_another(tmp_path: Path) -> None:
    data = save_npz(tmp_path / "calibration.npz", image=images(16))
    with pytest.raises(ConfigError, match="leave out --calibration"):
        packed(request(tmp_path, calibration=data))


def test_a_description_that_means_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="height_px"):
        packed(request(tmp_path, preprocessing=described(tmp_path, height_px=0)))


def evidence(**check: Any) -> Evidence:
    content = {"inputs": "evaluation", "samples": 100, "agreement_percent": None, "sqnr_db": None}
    return Evidence(
        quality=None,
        max_drop_points=None,
        sqnr_db=20.0,
        size_fp32_bytes=100,
        size_bytes=50,
        integer_kernels=4,
        compute_kernels=4,
        calibration_sha256=None,
        calibration_samples=0,
        source_sha256="0" * 64,
        data_free=DataFreeCheck.model_validate(content | check),
    )


@pytest.mark.parametrize(
    ("check", "refused"),
    [
        ({"agreement_percent": 95.0}, False),
        ({"agreement_percent": 94.9}, True),
        ({"agreement_percent": 94.9, "inputs": "synthesized"}, False),
        ({"agreement_percent": 89.9, "inputs": "synthesized"}, True),
        ({"agreement_percent": 96.0, "sqnr_db": 3.0}, False),
        ({"sqnr_db": 10.0}, False),
        ({"sqnr_db": 9.9}, True),
        ({}, False),
    ],
)
def test_the_threshold(check: dict[str, Any], refused: bool) -> None:
    """Decisions count where there are some, noise where there are none."""
    outputs = {"logits": images(2)}
    broken = broken_rules(RECIPE, evidence(**check), GoldenVectors(outputs, outputs, outputs))
    assert (Rule.DATA_FREE in broken) == refused
