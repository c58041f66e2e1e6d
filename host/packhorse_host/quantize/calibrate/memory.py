"""Ranges that several recipes for one model have in common: each tensor is watched once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from packhorse_agent.contract.recipe import CalibrationMethod
from packhorse_host.evaluate.samples import Samples
from packhorse_host.quantize.calibrate.collect import collect_extremes, collect_observations
from packhorse_host.quantize.calibrate.methods import choose_range
from packhorse_host.quantize.calibrate.observer import Observation, Range

_Seen = TypeVar("_Seen", Observation, Range)


@dataclass(frozen=True)
class RangeMemory:
    """Collects ranges as `collect_ranges` does, and keeps what it saw: some 32 KiB for each tensor."""

    _observations: dict[Hashable, Observation] = field(default_factory=dict)
    _extremes: dict[Hashable, Range] = field(default_factory=dict)

    def ranges(
        self,
        model: Any,
        tensors: Sequence[str],
        samples: Samples,
        method: CalibrationMethod,
        percentile: float,
        *,
        function: str,
        batch: int,
        levels: int = 256,
    ) -> dict[str, Range]:
        """The range of each tensor over all samples; other arguments and errors as of `collect_ranges`.

        Args:
            function: names what the model computes: models with one `function` have the same values in
                tensors of the same name.
        """
        key = function, samples.sha256
        if method is CalibrationMethod.MINMAX:

            def collect_range(names: Sequence[str]) -> dict[str, Range]:
                return collect_extremes(model, names, samples, batch=batch)

            return _looked_up(self._extremes, key, tensors, collect_range)

        def collect_observation(names: Sequence[str]) -> dict[str, Observation]:
            return collect_observations(model, names, samples, batch=batch)

        observed = _looked_up(self._observations, key, tensors, collect_observation)
        return {name: choose_range(seen, method, percentile, levels) for name, seen in observed.items()}


def _looked_up(
    memory: dict[Hashable, _Seen],
    key: Hashable,
    tensors: Sequence[str],
    collect: Callable[[Sequence[str]], dict[str, _Seen]],
) -> dict[str, _Seen]:
    unknown = [name for name in tensors if (key, name) not in memory]
    memory.update({(key, name): seen for name, seen in collect(unknown).items()})
    return {name: memory[key, name] for name in tensors}
