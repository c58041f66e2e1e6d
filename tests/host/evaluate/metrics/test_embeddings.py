"""Embeddings: cosine to the float model's, and a linear probe."""

from __future__ import annotations

import numpy as np
import pytest

from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.errors import LabelsError, OutputsError
from packhorse_host.evaluate.metrics.base import Truth
from packhorse_host.evaluate.metrics.embeddings import EmbeddingCosine, LinearProbe, probe


def cosine(reference: Array, found: Array) -> float:
    metric = EmbeddingCosine()
    truth = Truth(len(reference)).beside({"y": reference})
    return metric.aggregate(metric.per_sample({"y": found}, truth))


def test_cosine_is_the_mean_of_angles() -> None:
    """Length does not matter; 45 degrees and 0."""
    reference, found = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 3.0], [0.0, 1.0]])
    assert cosine(reference, found) == pytest.approx(50 * (np.sqrt(0.5) + 1))


def test_embeddings_of_nothing_but_zeros() -> None:
    """Alike where both are, else as far off as can be told."""
    nothing = np.zeros((1, 3))
    assert cosine(nothing, nothing) == 100
    assert cosine(nothing, np.ones((1, 3))) == 0


def test_embeddings_of_another_length() -> None:
    with pytest.raises(OutputsError, match=r"\[2, 4\], the float model's are \[2, 3\]"):
        cosine(np.ones((2, 3)), np.ones((2, 4)))


def test_there_must_be_a_float_model() -> None:
    with pytest.raises(OutputsError, match="compares with the float model"):
        EmbeddingCosine().per_sample({"y": np.ones((2, 3))}, Truth(2))


def clouds(count: int, width: int, classes: int = 3) -> tuple[Array, Array]:
    """Classes far from each other along some of the features."""
    stream = np.random.default_rng(5)
    labels = np.arange(count) % classes
    return 4 * np.eye(width)[labels] + stream.normal(size=(count, width)), labels


@pytest.mark.parametrize("width", [8, 200], ids=["more samples", "more features"])
def test_a_probe_tells_clouds_apart(width: int) -> None:
    features, labels = clouds(120, width)
    assert (probe(features, labels) == labels).mean() > 0.7
    assert (probe(features, np.random.default_rng(0).permutation(labels)) == labels).mean() < 0.5


def test_both_ways_to_solve_are_one() -> None:
    """A feature more than there are samples to fit changes the algebra, not the answer."""
    features, labels = clouds(25, 20)
    widened = np.concatenate([features, np.zeros((25, 1))], axis=1)
    np.testing.assert_array_equal(probe(features * np.sqrt(20), labels), probe(widened * np.sqrt(20), labels))


def test_a_probe_does_not_mind_the_scale() -> None:
    features, labels = clouds(60, 8)
    np.testing.assert_array_equal(probe(features, labels), probe(1000 * features + 7, labels))


def test_features_that_say_nothing() -> None:
    """No division by zero; the most frequent class is as good as any."""
    labels = np.array([1, 1, 1, 0] * 5)
    assert (probe(np.ones((20, 4)), labels) == 1).all()


@pytest.mark.parametrize("labels", [[0] * 12, [0, 1, 0]])
def test_too_little_to_fit(labels: list[int]) -> None:
    truth = Truth(len(labels), {"labels": np.array(labels)})
    with pytest.raises(LabelsError, match="needs 10 samples of 2 classes"):
        LinearProbe().check(truth)


def test_embeddings_that_are_not_finite() -> None:
    features, labels = clouds(20, 4)
    features[3, 1] = np.inf
    with pytest.raises(OutputsError, match="not finite"):
        LinearProbe().per_sample({"y": features}, Truth(20, {"labels": labels}))
