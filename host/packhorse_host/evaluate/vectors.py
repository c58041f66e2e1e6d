"""Golden vectors: which samples a device replays, and what it must reach on them.

A device runs the same integers through other kernels, so its noise against FP32 is the host's give or take;
twice the noise power (3 dB) is allowed. Decisions are compared only where the float model is sure enough:
with a margin of `MARGIN_SIGMAS` standard deviations of the noise that is allowed, a flip is no accident.
Pure: arrays in, limits out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from packhorse_agent.contract.manifest import ProbeLimits, TensorSpec
from packhorse_agent.runtime.datatypes import DTYPES, Array
from packhorse_host.evaluate.samples import ArraySamples

VECTORS: Final = 16
VECTORS_MIN: Final = 4
VECTORS_BUDGET_BYTES: Final = 8 * 1024**2
"""Large inputs make fewer vectors, so that they do not outweigh the model on the way to the device."""
CANDIDATES: Final = 64
"""Samples of a data set that golden vectors are chosen from, evenly spread over it."""
SQNR_ALLOWANCE_DB: Final = 3.0
FP32_SQNR_MIN_DB: Final = 60.0
"""For a float model there is no noise to go by. Other summation orders stay above 100 dB, arithmetic in half
precision reaches about this, a wrong operator never does."""
MARGIN_SIGMAS: Final = 6.0
"""The difference of two noisy scores has √2 of their standard deviation: this is 4.2 of its own."""
AGREEMENT_MIN_PERCENT: Final = 90.0
"""One of ten sure decisions may differ: one vector of 16, two where all 16 are sure and still 87.5 fails."""


def candidates(count: int) -> list[int]:
    """Indexes of at most `CANDIDATES` samples, evenly spread over a data set that may be sorted by class."""
    return [int(index) for index in np.linspace(0, count - 1, min(count, CANDIDATES))]


def vector_count(tensors: Iterable[Array]) -> int:
    """How many vectors to keep, by the size of one sample in each of the arrays."""
    sample_bytes = sum(int(array[0].nbytes) for array in tensors)
    return min(VECTORS, max(VECTORS_MIN, VECTORS_BUDGET_BYTES // max(1, sample_bytes)))


def margins(scores: Array) -> npt.NDArray[np.float64]:
    """Distance between the best and the second best score of each sample, [N, classes] to [N]."""
    best = np.partition(scores.astype(np.float64), -2, axis=1)[:, -2:]
    distance: npt.NDArray[np.float64] = best[:, 1] - best[:, 0]
    return distance


def choose(scores: Array | None, decision_margin: float, count: int) -> list[int]:
    """Indexes of the samples to take: sure decisions first, then the classes in turn, then in order.

    Args:
        scores: the float model's, [N, classes]; None where outputs are no decisions: samples in order.
        decision_margin: from where on a decision is sure.
        count: how many are wanted; fewer come where there are fewer.
    """
    if scores is None:
        return list(range(count))
    turn: dict[tuple[bool, int], int] = {}
    ranked: list[tuple[bool, int, int]] = []
    unsure = margins(scores) < decision_margin
    for index, decision in enumerate(scores.argmax(axis=1)):
        kind = (bool(unsure[index]), int(decision))
        turn[kind] = turn.get(kind, 0) + 1
        ranked.append((kind[0], turn[kind], index))
    return sorted(index for _, _, index in sorted(ranked)[:count])


def margin_for(scores: Array, sqnr_min_db: float) -> float:
    """The decision margin at which noise of `sqnr_min_db` under the scores does not flip a decision."""
    power = float(np.mean(np.square(scores.astype(np.float64))))
    return MARGIN_SIGMAS * math.sqrt(power) * 10 ** (-sqnr_min_db / 20)


def probe_limits(
    sqnr_db: float | None, fp32: Array, host: Array, vectors: int, *, classification: bool
) -> ProbeLimits:
    """What a device must reach on the golden vectors; the host's own outputs pass by construction.

    Args:
        sqnr_db: of the host's outputs against FP32; None for the float model itself.
        fp32: first output on the vectors, scores [N, classes] for a classifier.
        host: the quantized model's first output on this machine.
        vectors: how many.
        classification: whether the first output is a decision.
    """
    sqnr_min_db = FP32_SQNR_MIN_DB if sqnr_db is None else sqnr_db - SQNR_ALLOWANCE_DB
    margin = _passing_margin(fp32, host, sqnr_min_db) if classification else 0.0
    return ProbeLimits(
        sqnr_min_db=round(sqnr_min_db, 2),
        agreement_min_percent=AGREEMENT_MIN_PERCENT if classification else 0.0,
        decision_margin=margin,
        vectors=vectors,
        classification=classification,
    )


def synthesized(inputs: Sequence[TensorSpec], count: int = VECTORS) -> ArraySamples | None:
    """Inputs from a fixed random stream where there is no data; None if an axis but the first is free.

    Floats are standard normal, integers 0 or 1 (valid as a token, a mask and a pixel), booleans either.
    """
    if any(-1 in spec.shape[1:] for spec in inputs):
        return None
    stream = np.random.default_rng(0)
    return ArraySamples({spec.name: _drawn(stream, spec, count) for spec in inputs})


def _drawn(stream: np.random.Generator, spec: TensorSpec, count: int) -> Array:
    shape = (count, *spec.shape[1:])
    dtype = DTYPES[spec.datatype]
    drawn = stream.standard_normal(shape) if dtype.kind == "f" else stream.integers(0, 2, shape)
    return drawn.astype(dtype)


def _passing_margin(fp32: Array, host: Array, sqnr_min_db: float) -> float:
    flipped = fp32.argmax(axis=1) != host.argmax(axis=1)
    beyond = 1.01 * float(margins(fp32)[flipped].max()) if flipped.any() else 0.0
    exact = max(margin_for(fp32, sqnr_min_db), beyond)
    return math.ceil(exact * 1e6) / 1e6
