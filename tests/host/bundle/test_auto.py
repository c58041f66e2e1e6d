"""`--recipe auto` with the real workbench."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from packhorse_agent.contract.recipe import CalibrationMethod, StaticWi8Ai8
from packhorse_host.bundle.front_image import check_front_file, draw_fronts
from packhorse_host.bundle.pack import PackedBundle, pack
from packhorse_host.bundle.request import PackRequest
from packhorse_host.bundle.search_report import headers, report, rows
from packhorse_host.bundle.settings import Settings
from packhorse_host.errors import ConfigError
from tests.host.float_models import cnn, decisions, images, profile, save, save_npz

HERE = platform.machine()
ELSEWHERE = "aarch64" if HERE == "x86_64" else "x86_64"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with calibration and evaluation data."""
    folder = tmp_path_factory.mktemp("data")
    model = cnn()
    save(model, folder / "model.onnx")
    save_npz(folder / "calibration.npz", image=images(64, seed=1))
    evaluation = images(200, seed=2)
    save_npz(folder / "evaluation.npz", image=evaluation, labels=decisions(model, evaluation))
    return folder


def packed(data: Path, output: Path, *architectures: str, **changes: Any) -> list[PackedBundle]:
    content: dict[str, Any] = {
        "model": data / "model.onnx",
        "name": "net",
        "version": "1.0",
        "profiles": [profile(name, name) for name in architectures or (ELSEWHERE,)],
        "calibration": data / "calibration.npz",
        "evaluation": data / "evaluation.npz",
        "max_drop_points": 5.0,
        "output": output,
    }
    return pack(PackRequest(**(content | changes)), lambda text: None)


def test_the_reason_is_evidence(data: Path, tmp_path: Path) -> None:
    (bundle,) = packed(data, tmp_path)
    assert bundle.search is not None
    assert bundle.manifest.recipe.name == "static_wi8_ai8"
    assert bundle.manifest.evidence.recipe_reason == bundle.search.why
    assert "latency was not measured on the profile's architecture" in bundle.search.why


def test_a_recipe_that_was_named_has_no_reason(data: Path, tmp_path: Path) -> None:
    (bundle,) = packed(data, tmp_path, recipe="static_wi8_ai8", max_drop_points=None)
    assert (bundle.search, bundle.manifest.evidence.recipe_reason) == (None, None)


def test_only_the_own_architecture_is_raced(data: Path, tmp_path: Path) -> None:
    own, foreign = packed(data, tmp_path, HERE, ELSEWHERE)
    assert own.search is not None
    assert foreign.search is not None
    assert any(point.race for point in own.search.tried)
    assert not any(point.race for point in foreign.search.tried)


def test_what_is_taken_holds_the_budget_and_is_not_slower(data: Path, tmp_path: Path) -> None:
    (bundle,) = packed(data, tmp_path, HERE, max_drop_points=0.0, search_seconds=20.0)
    assert bundle.search is not None
    (taken,) = [point for point in bundle.search.tried if point.recipe == bundle.search.recipe]
    assert taken.holds
    assert not taken.slower
    quality = bundle.manifest.evidence.quality
    assert quality is not None
    assert quality.drop_points <= 0.0


def test_the_budget_is_a_point_unless_it_is_said(data: Path, tmp_path: Path) -> None:
    (bundle,) = packed(data, tmp_path, max_drop_points=None)
    assert bundle.manifest.evidence.max_drop_points == 1.0


def test_profiles_that_want_the_same_are_searched_once(data: Path, tmp_path: Path) -> None:
    profiles = [profile(name, ELSEWHERE) for name in ("one", "two")]
    one, two = packed(data, tmp_path, profiles=profiles)
    assert one.search is two.search is not None


def test_the_same_search_gives_the_same_bundle(data: Path, tmp_path: Path) -> None:
    """Where nothing is timed."""
    first, second = (packed(data, tmp_path / name)[0] for name in ("a", "b"))
    assert first.digest == second.digest


def test_without_labels_the_outputs_are_compared(data: Path, tmp_path: Path) -> None:
    (bundle,) = packed(data, tmp_path, evaluation=None, max_drop_points=None)
    assert bundle.search is not None
    assert "20 dB" in bundle.search.why


def test_without_any_data_the_profile_decides(data: Path, tmp_path: Path) -> None:
    prefers = profile("board", ELSEWHERE, recipe={"name": "fp32", "reason": "test"})
    (bundle,) = packed(
        data, tmp_path, profiles=[prefers], calibration=None, evaluation=None, max_drop_points=None
    )
    assert (bundle.search, bundle.manifest.recipe.name) == (None, "fp32")


def test_details_set_by_hand_are_where_the_search_begins(data: Path, tmp_path: Path) -> None:
    (bundle,) = packed(data, tmp_path, settings=Settings(CalibrationMethod.MSE))
    assert bundle.search is not None
    tried = [point.recipe for point in bundle.search.tried if isinstance(point.recipe, StaticWi8Ai8)]
    assert tried[0].calibration is CalibrationMethod.MSE


def test_time_that_was_too_short_is_said(data: Path, tmp_path: Path) -> None:
    (bundle,) = packed(data, tmp_path, thorough=True, search_seconds=0.0)
    assert any("--search-seconds 0" in text for text in bundle.notices)


def test_a_search_as_table_json_and_picture(data: Path, tmp_path: Path) -> None:
    (bundle,) = packed(data, tmp_path, HERE, thorough=True)
    assert bundle.search is not None
    found = report(bundle.search)
    assert found.tried[0].text == "fp32"
    assert sum(each.chosen for each in found.tried) == 1
    assert type(found).model_validate_json(found.model_dump_json()) == found
    assert all(len(row) == len(headers(bundle.search)) for row in rows(found.tried))
    drawn = draw_fronts([("board", found), ("another", found)])
    assert drawn == draw_fronts([("board", found), ("another", found)])
    (tmp_path / "front.png").write_bytes(drawn)
    pixels = np.asarray(Image.open(tmp_path / "front.png"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 3


@pytest.mark.parametrize("name", ["front.jpg", "front", "missing/front.png"])
def test_a_picture_that_cannot_be_written_is_found_before_the_search(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--front"):
        check_front_file(tmp_path / name)
