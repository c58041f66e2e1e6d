"""Metrics by name, their options, and those that are not ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.manifest import BuiltInMetric
from packhorse_host.errors import BadInputError, ConfigError
from packhorse_host.evaluate.compare import compare
from packhorse_host.evaluate.errors import OwnMetricError
from packhorse_host.evaluate.metrics.base import Truth
from packhorse_host.evaluate.metrics.frames import FrameAccuracy
from packhorse_host.evaluate.metrics.own import load_decoder
from packhorse_host.evaluate.metrics.registry import (
    BUILT_IN,
    MetricOptions,
    load_metric,
    metric_title,
    needed_truth,
    read_alphabet,
)
from packhorse_host.evaluate.metrics.text import Alphabet

ALPHABET = Alphabet(("a", "b"))


def test_every_metric_of_the_contract_is_there_under_its_name() -> None:
    assert set(BUILT_IN) == set(get_args(BuiltInMetric))
    for name in BUILT_IN:
        options = MetricOptions(alphabet=ALPHABET) if "match" in name or "cer" in name else MetricOptions()
        metric = load_metric(name, options)
        assert metric.name == name
        assert name.endswith(f"_{metric.unit}")
        assert metric_title(name) != name


def test_what_a_metric_needs_is_known_before_anything_runs() -> None:
    assert needed_truth(load_metric("top1_percent")) == ("labels",)
    assert needed_truth(load_metric("ap75_percent")) == ("boxes", "classes", "box_counts")
    assert needed_truth(load_metric("output_sqnr_db")) == ()


def test_options_reach_the_metric() -> None:
    metric = load_metric("frame_accuracy_percent", MetricOptions(threshold=0.7, output="yes"))
    assert metric == FrameAccuracy(threshold=0.7, output="yes")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("top1", MetricOptions(), 'did you mean "top1_percent"'),
        ("zzz", MetricOptions(), "there are top1_percent, "),
        ("my module:Metric", MetricOptions(), "there is no metric"),
        ("top1_percent", MetricOptions(threshold=0.5), "takes no threshold; it takes output"),
        ("output_sqnr_db", MetricOptions(output="y"), "takes no output; it takes none"),
        ("cer_percent", MetricOptions(), "needs the characters"),
        ("own:Metric", MetricOptions(threshold=0.5), "takes no option, found threshold"),
    ],
)
def test_names_and_options_that_do_not_fit(name: str, options: MetricOptions, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_metric(name, options)
    assert caught.value.exit_code is ExitCode.USAGE


OWN = """
import numpy as np

class Metric:
    unit = "px"
    higher_is_better = False

    def per_sample(self, outputs, truth):
        return np.abs(outputs["y"][:, 0] - truth.arrays["where"])

    def aggregate(self, statistics):
        return float(statistics.mean())

    def decisions(self, outputs):
        return outputs["y"][:, 0] > 0

instance = Metric()

class Raises(Metric):
    def per_sample(self, outputs, truth):
        raise IndexError("out of range")

class Writes(Metric):
    def per_sample(self, outputs, truth):
        outputs["y"][:] = 0
        return outputs["y"][:, 0]

class BadScore(Metric):
    def aggregate(self, statistics):
        return float("nan")

class BadDecisions(Metric):
    def decisions(self, outputs):
        return np.zeros(1)

class Incomplete:
    unit = "px"

class BadUnit(Metric):
    unit = "Points lost"

class BadDirection(Metric):
    higher_is_better = "yes"

class Unmakeable(Metric):
    def __init__(self, wanted):
        pass

number = 3

def decode(outputs):
    return {"boxes": outputs["y"][..., :4]}

def decode_nothing(outputs):
    return None

def decode_badly(outputs):
    return outputs["z"]
"""
NAME = "packhorse_test_own_metrics"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of somebody else's on the path."""
    (tmp_path / f"{NAME}.py").write_text(OWN)
    (tmp_path / f"{NAME}_broken.py").write_text("import no_such_module_at_all")
    (tmp_path / f"{NAME}_failing.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith(NAME)]:
        monkeypatch.delitem(sys.modules, name)
    return NAME


OUTPUTS = {"y": np.array([[1.0], [2.0], [-3.0]])}
TRUTH = Truth(3, {"where": np.zeros(3)})


@pytest.mark.parametrize("attribute", ["Metric", "instance"])
def test_a_metric_that_is_not_ours_goes_by_its_reference(own: str, attribute: str) -> None:
    metric = load_metric(f"{own}:{attribute}")
    quality = compare(metric, OUTPUTS, {"y": 2 * OUTPUTS["y"]}, TRUTH, "0" * 64)
    assert (quality.metric, quality.unit) == (f"{own}:{attribute}", "px")
    assert (quality.fp32, quality.quantized, quality.drop_points) == (2.0, 4.0, 2.0)
    assert quality.agreement_percent == 100


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("Missing", "has no `Missing`"),
        ("Incomplete", "it has no higher_is_better, per_sample, aggregate"),
        ("number", "it has no unit"),
        ("BadUnit", "unit must be a short word"),
        ("BadDirection", "must be True or False"),
        ("Unmakeable", "raised TypeError"),
    ],
)
def test_what_is_no_metric(own: str, attribute: str, words: str) -> None:
    with pytest.raises(OwnMetricError, match=words):
        load_metric(f"{own}:{attribute}")


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("Raises", "per_sample raised IndexError: out of range"),
        ("Writes", "per_sample raised ValueError.*read-only"),
        ("BadScore", "one finite number"),
        ("BadDecisions", r"one for each of 3 samples, found \[1\]"),
    ],
)
def test_a_metric_that_misbehaves(own: str, attribute: str, words: str) -> None:
    """It is named, its arrays are not its own, and nothing it raises passes as ours."""
    with pytest.raises(OwnMetricError, match=words) as caught:
        compare(load_metric(f"{own}:{attribute}"), OUTPUTS, {"y": 2 * OUTPUTS["y"]}, TRUTH, "0" * 64)
    assert f"{own}:{attribute}" in str(caught.value)
    assert caught.value.exit_code is ExitCode.BAD_INPUT


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("no_such_module", "in PYTHONPATH"),
        (f"{NAME}_broken", "no_such_module_at_all"),
        (f"{NAME}_failing", "ZeroDivisionError"),
    ],
)
def test_modules_that_do_not_import(own: str, module: str, words: str) -> None:
    with pytest.raises(OwnMetricError, match=words):
        load_metric(f"{module}:Metric")


def test_a_decoder_that_is_not_ours(own: str) -> None:
    decoded = load_decoder(f"{own}:decode")({"y": np.zeros((2, 3, 6))})
    assert decoded["boxes"].shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("yolo", "there is no decoder `yolo`"),
        (f"{NAME}:number", "is no function"),
        (f"{NAME}:decode_nothing", "must give arrays by name, found NoneType"),
        (f"{NAME}:decode_badly", "raised KeyError"),
    ],
)
def test_decoders_that_do_not_work(own: str, name: str, words: str) -> None:
    with pytest.raises(OwnMetricError, match=words):
        load_decoder(name)({"y": np.zeros((2, 3, 6))})


def test_a_charset_is_one_character_a_line(tmp_path: Path) -> None:
    """Also the space, and characters that some take for the end of a line."""
    path = tmp_path / "charset.txt"
    path.write_bytes("a\n\x0b\n \u2028\n \n".encode())
    assert read_alphabet(path, blank=-1) == Alphabet(("a", "\x0b", " \u2028", " "), -1)
    path.write_bytes(b"a\r\nb\r\n")
    assert read_alphabet(path).characters == ("a", "b")


@pytest.mark.parametrize(
    ("content", "blank", "words"),
    [
        (b"", 0, "line 1 is empty"),
        (b"a\n\nb\n", 0, "line 2 is empty"),
        (b"\xff\xfe\n", 0, "not UTF-8"),
        (b"a\nb\n", 3, "no class 3"),
        (b"a\n" * 600_000, 0, "larger than"),
    ],
)
def test_charsets_that_are_none(tmp_path: Path, content: bytes, blank: int, words: str) -> None:
    path = tmp_path / "charset.txt"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=words):
        read_alphabet(path, blank)


def test_a_charset_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot be read"):
        read_alphabet(tmp_path / "missing.txt")
