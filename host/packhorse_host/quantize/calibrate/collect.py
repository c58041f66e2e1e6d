"""Runs a model on representative data and watches its tensors, within a bound on memory.

Each batch is forgotten before the next one runs. How many samples run at once, and how many tensors are
watched in one pass over the samples, follows from the sizes that the tensors have for one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime

from packhorse_agent.contract.recipe import CalibrationMethod
from packhorse_agent.runtime.datatypes import Array
from packhorse_host.evaluate.samples import Samples
from packhorse_host.quantize.calibrate.graph import showing, showing_extremes, showing_sizes
from packhorse_host.quantize.calibrate.methods import choose_range
from packhorse_host.quantize.calibrate.observer import (
    NOTHING,
    NotFiniteError,
    Observation,
    Range,
    extremes,
    merge,
    mirrored,
    observe,
)
from packhorse_host.quantize.errors import ActivationError, ModelError
from packhorse_host.quantize.graph import open_session, plain_words, quiet_options

FETCH_BYTES_MAX: Final = 32 * 2**20
"""What one run may hand out, unless a single tensor of a single sample is larger."""
_LIVE_TENSORS: Final = 8
"""With extremes taken inside the graph, this many times its largest tensor lives at once, at most."""
_ELEMENT_BYTES: Final = 4

Feed = dict[str, Array]


@dataclass(frozen=True)
class _Watch:
    model: Any
    samples: Samples
    batch: int


def collect_ranges(
    model: Any,
    tensors: Sequence[str],
    samples: Samples,
    method: CalibrationMethod,
    percentile: float,
    *,
    batch: int,
    levels: int = 256,
    symmetric: bool = False,
) -> dict[str, Range]:
    """The range of each tensor over all samples.

    Memory grows with the tensors of one sample, not with the number of samples. A tensor without elements
    gets [0, 0].

    Args:
        model: an `onnx.ModelProto` that ONNX Runtime runs.
        tensors: names of floating-point inputs or inner tensors.
        percentile: share of the magnitudes within the range, in percent; for that method only.
        batch: most samples that run at once; 1 where the model takes no more.
        levels: how many integers will stand for a range.
        symmetric: zero will be the middle of the integers; what counts of a range is its larger magnitude.

    Raises:
        ActivationError: a tensor gets NaN or infinity.
        ModelError: ONNX Runtime does not load or run the model on these samples.
    """
    if method is CalibrationMethod.MINMAX:
        return collect_extremes(model, tensors, samples, batch=batch)
    observed = collect_observations(model, tensors, samples, batch=batch)
    if symmetric:
        observed = {name: mirrored(seen) for name, seen in observed.items()}
    return {name: choose_range(observed[name], method, percentile, levels) for name in tensors}


def collect_extremes(model: Any, tensors: Sequence[str], samples: Samples, *, batch: int) -> dict[str, Range]:
    """Smallest and largest value of each tensor; arguments and errors as of `collect_ranges`."""
    if not tensors:
        return {}
    watch = _Watch(model, samples, batch)
    sizes = _sizes(watch, tensors)
    watched = [name for name in tensors if sizes[name]]
    ranges: dict[str, Range] = {}
    if watched:
        run = _runner(showing_extremes(watch.model, watched))
        for feed in _batches(watch, max(sizes.values()) * _ELEMENT_BYTES * _LIVE_TENSORS):
            facts = np.array(run(feed), np.float32).reshape(-1, 3)
            for name, (low, high, total) in zip(watched, facts, strict=True):
                with _naming(name):
                    extremes(np.array([low, high, total]))
                seen = Range(float(low), float(high))
                ranges[name] = ranges.get(name, seen).union(seen)
    return {name: ranges.get(name, Range(0.0, 0.0)) for name in tensors}


def collect_observations(
    model: Any, tensors: Sequence[str], samples: Samples, *, batch: int
) -> dict[str, Observation]:
    """Histogram of each tensor; arguments and errors as of `collect_ranges`."""
    if not tensors:
        return {}
    watch = _Watch(model, samples, batch)
    sizes = _sizes(watch, tensors)
    observed = dict.fromkeys(tensors, NOTHING)
    for group in _groups(sizes):
        run = _runner(showing(watch.model, group))
        for feed in _batches(watch, sum(sizes[name] for name in group) * _ELEMENT_BYTES):
            outputs = run(feed)[::-1]
            for name in group:
                with _naming(name):  # each is freed when it has been seen
                    observed[name] = merge(observed[name], observe(outputs.pop()))
    return observed


def _sizes(watch: _Watch, tensors: Sequence[str]) -> dict[str, int]:
    """Elements of each tensor for one sample."""
    run = _runner(showing_sizes(watch.model, tensors), once=True)
    (feed,) = watch.samples.batches(1, 0, 1)
    return {name: int(size) for name, size in zip(tensors, run(feed), strict=True)}


def _groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    free = FETCH_BYTES_MAX
    for name, size in sizes.items():
        if group and size * _ELEMENT_BYTES > free:
            yield group
            group, free = [], FETCH_BYTES_MAX
        group.append(name)
        free -= size * _ELEMENT_BYTES
    yield group


def _batches(watch: _Watch, sample_bytes: int) -> Iterator[Feed]:
    """All samples, each once: what fills up a batch would be counted too."""
    size = max(1, min(watch.batch, FETCH_BYTES_MAX // max(1, sample_bytes), watch.samples.count))
    whole = watch.samples.count // size * size
    yield from watch.samples.batches(size, 0, whole)
    if whole < watch.samples.count:
        yield from watch.samples.batches(watch.samples.count - whole, whole)


def _runner(shown: Any, *, once: bool = False) -> Callable[[Feed], list[Array]]:
    options = quiet_options()
    if once:  # optimizing takes longer than what it saves
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = open_session(shown.SerializeToString(), options)

    def run(feed: Feed) -> list[Array]:
        try:
            outputs: list[Array] = session.run(None, feed)
        except Exception as error:  # the runtime's exceptions share no base class
            raise ModelError(
                f"the model does not run on the calibration data: {plain_words(error)}"
            ) from error
        return outputs

    return run


@contextmanager
def _naming(tensor: str) -> Iterator[None]:
    try:
        yield
    except NotFiniteError as error:
        raise ActivationError(
            f"tensor `{tensor.rstrip('/')}` of the float model gets NaN or infinity with the calibration "
            "data: no range can be taken; look for a division, logarithm or overflow before it"
        ) from error
