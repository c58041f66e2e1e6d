"""Yes or no for each frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.errors import LabelsError, OutputsError
from packhorse_host.evaluate.metrics.base import Truth
from packhorse_host.evaluate.metrics.frames import Auc, FrameAccuracy

few = st.integers(-6, 6)
frames = st.lists(st.tuples(few, st.integers(0, 1)), min_size=2, max_size=30).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


def auc(scores: Array, labels: Array) -> float:
    return Auc().aggregate(Auc().per_sample({"y": scores}, Truth(len(labels), {"labels": labels})))


@given(frames)
def test_auc_is_how_often_a_yes_beats_a_no(rows: list[tuple[int, int]]) -> None:
    """Pair by pair, a tie counting half."""
    scores, labels = np.array(rows, np.float64).T
    differences = scores[labels == 1][:, np.newaxis] - scores[labels == 0]
    assert auc(scores, labels.astype(int)) == pytest.approx(50 * (1 + np.sign(differences)).mean())


@given(frames, st.floats(0.1, 5), st.floats(-5, 5))
def test_auc_knows_the_order_only(rows: list[tuple[int, int]], scale: float, shift: float) -> None:
    scores, labels = np.array(rows, np.float64).T
    kept = auc(scores, labels.astype(int))
    assert auc(np.tanh(scores * scale / 20) + shift, labels.astype(int)) == pytest.approx(kept)
    assert auc(-scores, labels.astype(int)) == pytest.approx(100 - kept)


@given(frames, st.integers(0, 2**32 - 1))
def test_a_resample_is_scored_like_its_frames(rows: list[tuple[int, int]], seed: int) -> None:
    scores, labels = np.array(rows, np.float64).T
    drawn = np.random.default_rng(seed).integers(len(rows), size=len(rows))
    assume(len(set(labels[drawn])) == 2)
    statistics = np.stack([scores, labels], axis=1)
    counts = np.bincount(drawn, minlength=len(rows)).astype(np.float64)[np.newaxis]
    expected = auc(scores[drawn], labels[drawn].astype(int))
    assert Auc().resampled(statistics, counts)[0] == pytest.approx(expected)


def test_a_resample_of_one_kind_has_no_area() -> None:
    statistics = np.array([[0.1, 0.0], [0.9, 1.0]])
    assert np.isnan(Auc().resampled(statistics, np.array([[2.0, 0.0]]))).all()


@pytest.mark.parametrize(
    ("scores", "threshold"),
    [
        (np.array([0.1, 0.6, 0.9]), 0.5),
        (np.array([[0.1], [0.6], [0.9]]), 0.5),
        (np.array([[[2.0, 1.0]], [[1.0, 2.0]], [[0.0, 3.0]]]), 0.0),
    ],
)
def test_one_score_or_one_for_no_and_yes(scores: Array, threshold: float) -> None:
    metric = FrameAccuracy(threshold=threshold)
    truth = Truth(3, {"labels": np.array([0, 1, 0])})
    assert metric.aggregate(metric.per_sample({"y": scores}, truth)) == pytest.approx(200 / 3)
    assert metric.decisions({"y": scores}).tolist() == [False, True, True]


def test_other_outputs() -> None:
    with pytest.raises(OutputsError, match=r"one each for no and yes; found shape \[2, 3\]"):
        auc(np.zeros((2, 3)), np.array([0, 1]))


@pytest.mark.parametrize(
    ("labels", "words"), [([1, 1], "all labels are 1"), ([0, 2], "0 to 1, found 2"), ([0.0, 1.0], "integers")]
)
def test_labels_that_are_not_both_kinds(labels: list[int], words: str) -> None:
    with pytest.raises(LabelsError, match=words):
        Auc().check(Truth(2, {"labels": np.array(labels)}))
