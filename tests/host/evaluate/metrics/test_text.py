"""Reading by CTC, exact matches and character errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.errors import LabelsError, OutputsError
from packhorse_host.evaluate.metrics.base import Truth
from packhorse_host.evaluate.metrics.text import Alphabet, CharacterErrors, ExactMatch, edits

ABC = Alphabet(("a", "b", "c"))


def steps(*rows: list[int], classes: int = 4) -> Array:
    """Scores that are best for the classes told."""
    scores: Array = np.eye(classes, dtype=np.float32)[np.array(rows)]
    return scores


def texts(*written: str) -> Truth:
    return Truth(len(written), {"texts": np.array(written)})


@pytest.mark.parametrize(
    ("classes", "text"),
    [([1, 2, 3], "abc"), ([1, 1, 2], "ab"), ([1, 0, 1], "aa"), ([0, 0, 0], ""), ([3, 0, 0], "c")],
)
def test_repeats_are_one_and_the_blank_parts_them(classes: list[int], text: str) -> None:
    assert ABC.decode(steps(classes)) == [text]


def test_the_blank_may_be_the_last_class() -> None:
    assert Alphabet(("a", "b", "c"), blank=-1).decode(steps([0, 3, 0, 2])) == ["aac"]


@given(st.text("abc", max_size=12), st.lists(st.integers(1, 3), min_size=12, max_size=12))
def test_what_is_spelled_out_is_read(text: str, repeats: list[int]) -> None:
    """However long each step lasts, with a blank between."""
    classes = [0]
    for letter, times in zip(text, repeats, strict=False):
        classes += [ABC.characters.index(letter) + 1] * times + [0]
    assert ABC.decode(steps(classes)) == [text]


def by_table(first: str, second: str) -> int:
    """Levenshtein's distance by the whole table."""
    row = list(range(len(second) + 1))
    for index, left in enumerate(first):
        above, row = row, [index + 1]
        for column, right in enumerate(second):
            row.append(min(above[column + 1] + 1, row[-1] + 1, above[column] + (left != right)))
    return row[-1]


@given(st.text("abcd", max_size=80), st.text("abcd", max_size=80))
def test_edits_are_those_of_the_table(first: str, second: str) -> None:
    assert edits(first, second) == by_table(first, second)


@given(st.text(max_size=20), st.text(max_size=20))
def test_edits_are_none_if_and_only_if_equal(first: str, second: str) -> None:
    assert edits(first, second) == edits(second, first) >= 0
    assert (edits(first, second) == 0) == (first == second)


def test_a_worked_example() -> None:
    """`abc` for `abc`, `b` for `bb`: one of two right, one edit in five characters."""
    outputs, truth = {"y": steps([1, 2, 3], [0, 2, 2])}, texts("abc", "bb")
    exact, errors = ExactMatch(ABC), CharacterErrors(ABC)
    assert exact.aggregate(exact.per_sample(outputs, truth)) == 50
    assert errors.aggregate(errors.per_sample(outputs, truth)) == 20
    assert errors.decisions(outputs).tolist() == ["abc", "b"]


def test_more_errors_than_characters() -> None:
    metric = CharacterErrors(ABC)
    assert metric.aggregate(metric.per_sample({"y": steps([1, 2, 3])}, texts("c"))) == 200


def test_a_resample_of_empty_texts_has_no_rate() -> None:
    metric = CharacterErrors(ABC)
    statistics = metric.per_sample({"y": steps([1, 0, 0], [1, 0, 0])}, texts("", "a"))
    rates = metric.resampled(statistics, np.array([[2.0, 0.0], [0.0, 2.0]]))
    assert np.isnan(rates[0])
    assert rates[1] == 0


@pytest.mark.parametrize("shape", [(1, 4), (1, 3, 5), (1, 3, 3)])
def test_outputs_that_are_no_scores_of_the_alphabet(shape: tuple[int, ...]) -> None:
    with pytest.raises(OutputsError, match=r"\[samples, steps, 4\], for 3 characters and the blank"):
        ExactMatch(ABC).per_sample({"y": np.zeros(shape)}, texts("a"))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([b"abc"]), "must be unicode"),
        (np.array([["abc"]]), r"found <U3 \[1, 1\]"),
        (np.array([1]), "must be unicode"),
        (np.array([""]), "all `texts` are empty"),
    ],
)
def test_texts_that_are_none(array: Array, words: str) -> None:
    with pytest.raises(LabelsError, match=words):
        CharacterErrors(ABC).check(Truth(1, {"texts": array}))
