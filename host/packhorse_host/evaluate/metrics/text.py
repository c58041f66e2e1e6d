"""Text recognition: what a CTC model reads against what is written. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from packhorse_agent.contract.manifest import BuiltInMetric
from packhorse_agent.runtime.datatypes import Array, Tensors
from packhorse_host.evaluate.errors import LabelsError, OutputsError
from packhorse_host.evaluate.metrics.base import Floats, ShareMetric, Truth, WeightedMetric, one_output


@dataclass(frozen=True)
class Alphabet:
    """What the classes of a CTC model stand for."""

    characters: tuple[str, ...]
    """Of the classes in order, without the blank."""
    blank: int = 0
    """Class of the blank; negative counts from the end."""

    @property
    def classes(self) -> int:
        """All of them, with the blank."""
        return len(self.characters) + 1

    def decode(self, scores: Array) -> list[str]:
        """Greedy CTC decoding of scores [N, steps, classes]: best class of each step, repeats taken as one.

        Source: Graves et al., "Connectionist Temporal Classification", ICML 2006, section 3.2 (best path).

        Raises:
            OutputsError: another shape.
        """
        if scores.ndim != 3 or scores.shape[2] != self.classes:
            raise OutputsError(
                f"CTC decoding needs scores [samples, steps, {self.classes}], for {len(self.characters)} "
                f"characters and the blank; found {list(scores.shape)}"
            )
        blank = self.blank % self.classes
        best = scores.argmax(axis=2)
        changed = np.diff(best, axis=1, prepend=-1) != 0
        letters = best - (best > blank)
        rows = zip(letters, changed & (best != blank), strict=True)
        return ["".join(self.characters[letter] for letter in row[kept]) for row, kept in rows]


class _Reading:
    """What both metrics of text know: how to read, and what is right."""

    name: ClassVar[BuiltInMetric]
    alphabet: Alphabet
    output: str | None

    def decisions(self, outputs: Tensors) -> Array:
        """The texts that the model reads, [N]."""
        return np.array(self.alphabet.decode(one_output(outputs, self.output)), dtype=object)

    def _texts(self, truth: Truth) -> list[str]:
        texts = truth.array("texts", self.name)
        if texts.dtype.kind != "U" or texts.shape != (truth.count,):
            raise LabelsError(
                f"`texts` must be unicode [{truth.count}], found {texts.dtype} {list(texts.shape)}"
            )
        return [str(text) for text in texts]


@dataclass(frozen=True)
class ExactMatch(_Reading, ShareMetric):
    """Share of texts that are read without an error. Truth: `texts`, unicode [N]."""

    name: ClassVar[BuiltInMetric] = "exact_match_percent"
    needs: ClassVar[tuple[str, ...]] = ("texts",)

    alphabet: Alphabet
    output: str | None = None

    def per_sample(self, outputs: Tensors, truth: Truth) -> Floats:
        """1 where the text is right, [N].

        Raises:
            OutputsError: no scores of this alphabet.
            LabelsError: `texts` are missing or no unicode.
        """
        pairs = zip(self.decisions(outputs), self._texts(truth), strict=True)
        return np.array([float(read == written) for read, written in pairs])


@dataclass(frozen=True)
class CharacterErrors(_Reading, WeightedMetric):
    """Character error rate: edits that turn what is read into what is written, by characters written.

    Over all texts together, so that long ones count more; it may pass 100. Truth: `texts`, unicode [N].
    """

    name: ClassVar[BuiltInMetric] = "cer_percent"
    needs: ClassVar[tuple[str, ...]] = ("texts",)
    higher_is_better: ClassVar[bool] = False

    alphabet: Alphabet
    output: str | None = None

    def check(self, truth: Truth) -> None:
        """See `WeightedMetric.check`.

        Raises:
            LabelsError: `texts` are no unicode, or all empty.
        """
        if not any(self._texts(truth)):
            raise LabelsError(f"{self.name} needs characters to count; all `texts` are empty")

    def per_sample(self, outputs: Tensors, truth: Truth) -> Floats:
        """Edits and characters written, [N, 2].

        Raises:
            OutputsError: no scores of this alphabet.
            LabelsError: `texts` are missing or no unicode.
        """
        pairs = zip(self.decisions(outputs), self._texts(truth), strict=True)
        return np.array([[edits(read, written), len(written)] for read, written in pairs], np.float64)

    def resampled(self, statistics: Floats, counts: Floats) -> Floats:
        """See `WeightedMetric.resampled`; NaN for a resample of empty texts."""
        with np.errstate(invalid="ignore", divide="ignore"):
            rates: Floats = 100 * (counts @ statistics[:, 0]) / (counts @ statistics[:, 1])
        return np.where(np.isfinite(rates), rates, np.nan)


def edits(first: Sequence[str], second: Sequence[str]) -> int:
    """Levenshtein distance: insertions, deletions and replacements of single characters.

    Bit-parallel: Hyyrö, "A Bit-Vector Algorithm for Computing Levenshtein and Damerau Edit Distances",
    Nordic J. Computing 10 (2003), 29-39; a column of the table is two integers of as many bits as `first`.
    """
    if not first:
        return len(second)
    places: dict[str, int] = {}
    for index, character in enumerate(first):
        places[character] = places.get(character, 0) | 1 << index
    full = (1 << len(first)) - 1
    last = 1 << (len(first) - 1)
    up, down, distance = full, 0, len(first)
    for character in second:
        same = places.get(character, 0)
        diagonal = (((same & up) + up) ^ up) | same | down
        plus, minus = down | ~(diagonal | up) & full, up & diagonal
        distance += bool(plus & last) - bool(minus & last)
        plus, minus = (plus << 1 | 1) & full, minus << 1 & full
        up, down = minus | ~(diagonal | plus) & full, plus & diagonal
    return distance
