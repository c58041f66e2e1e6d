"""Descriptions of preprocessing: read strictly where data are made by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from packhorse_host.errors import BadInputError
from packhorse_host.evaluate.preprocessing import (
    AudioPreprocessing,
    ImagePreprocessing,
    TokenPreprocessing,
    parse_preprocessing,
)
from packhorse_host.evaluate.read import read_preprocessing

SAMPLE = Path(__file__).parents[3] / "samples/fashion-mnist/preprocessing.json"
IMAGE: dict[str, Any] = {"layout": "NCHW", "channels": ["gray"], "height_px": 2, "width_px": 3}


def test_the_sample_s_own_description() -> None:
    found = parse_preprocessing(SAMPLE.read_bytes(), "sample")
    assert isinstance(found, ImagePreprocessing)
    assert (found.input, found.channels, found.mean, found.background) == (
        "image",
        ("gray",),
        (0.0,),
        "black",
    )


def test_the_kind_tells_the_rest() -> None:
    audio = {"kind": "audio", "sample_rate_hz": 16000, "frame_length": 512}
    assert isinstance(parse_preprocessing(json.dumps(audio), "x"), AudioPreprocessing)
    assert isinstance(parse_preprocessing('{"kind": "tokens", "length": 8}', "x"), TokenPreprocessing)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "x: not JSON"),
        ("[]", "a JSON object is expected, found a list"),
        ({"kind": "video"}, "x: the description: .*video"),
        (IMAGE | {"hieght": 3}, "x: hieght: Extra"),
        (IMAGE | {"height_px": 0}, "height_px"),
        (IMAGE | {"channels": ["red", "blue", "green"]}, "channels must be one of"),
        (IMAGE | {"mean": [0.1, 0.2]}, "2 values for 1 channels"),
        (IMAGE | {"standard_deviation": [0.0]}, "greater than 0"),
        (IMAGE | {"mean": [float("nan")]}, "mean"),
        (IMAGE | {"shorter_side_px": 4}, "for `cover`"),
        (IMAGE | {"shorter_side_px": 1, "resize": "cover"}, "not less than"),
        (IMAGE | {"formula": "pixel ** 2"}, "formula"),
        ({"kind": "audio", "sample_rate_hz": 0, "frame_length": 1}, "sample_rate_hz"),
        ({"kind": "tokens"}, "length"),
    ],
)
def test_descriptions_that_mean_nothing(content: Any, words: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(BadInputError, match=words):
        parse_preprocessing(text, "x")


def test_a_description_is_read_only_where_data_are_made_by_it(tmp_path: Path) -> None:
    """One in words of its own may still travel with a model."""
    path = tmp_path / "preprocessing.json"
    path.write_text('{"how": "as always"}')
    assert read_preprocessing(path, tmp_path / "data.npz", None) is None
    with pytest.raises(BadInputError, match="layout: Field required"):
        read_preprocessing(path, tmp_path / "data.jsonl")
    with pytest.raises(BadInputError, match="cannot be read"):
        read_preprocessing(tmp_path / "missing.json", tmp_path / "data.jsonl")
