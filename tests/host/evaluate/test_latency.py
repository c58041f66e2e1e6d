"""Timing in pairs, on a clock of our own."""

from __future__ import annotations

import numpy as np
import pytest

from packhorse_host.evaluate.latency import PAIRS_MAX, PAIRS_MIN, WARM_UP_PAIRS, Race, race, summarize


class Machine:
    """Two models that take the time they are told, on a machine that slows down steadily."""

    def __init__(self, fp32_s: float, bundle_s: float, slowing: float = 1.0) -> None:
        self.now_s = 0.0
        self.calls: list[str] = []
        self._cost_s = {"fp32": fp32_s, "bundle": bundle_s}
        self._slowing = slowing

    def run(self, model: str) -> None:
        self.calls.append(model)
        self.now_s += self._cost_s[model] * self._slowing ** len(self.calls)

    def race(self, budget_s: float) -> Race:
        return race(
            lambda: self.run("fp32"), lambda: self.run("bundle"), budget_s=budget_s, clock=lambda: self.now_s
        )


def test_speedup_is_the_ratio_of_medians() -> None:
    machine = Machine(fp32_s=0.003, bundle_s=0.001)
    result = machine.race(budget_s=1)
    assert result.speedup == 3.0
    assert (result.speedup_ci95.low, result.speedup_ci95.high) == (3.0, 3.0)
    assert (result.fp32.latency_p50_us, result.bundle.latency_p99_us) == (3000.0, 1000.0)


def test_pairs_alternate_in_order() -> None:
    """What comes second in a pair is not always the same."""
    machine = Machine(0.001, 0.001)
    machine.race(budget_s=1)
    timed = machine.calls[2 * WARM_UP_PAIRS :]
    assert timed[:4] == ["fp32", "bundle", "bundle", "fp32"]


def test_a_machine_that_slows_down_does_not_favour_one() -> None:
    machine = Machine(0.001, 0.001, slowing=1.01)
    result = machine.race(budget_s=0)
    assert result.speedup == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("budget_s", "pairs"), [(0.0, PAIRS_MIN), (0.1, 50), (1e9, PAIRS_MAX)])
def test_a_budget_bounds_it(budget_s: float, pairs: int) -> None:
    assert Machine(0.001, 0.001).race(budget_s).fp32.inferences == pairs


def test_a_slow_model_is_not_warmed_up_for_ever() -> None:
    machine = Machine(fp32_s=1.0, bundle_s=1.0)
    machine.race(budget_s=1.0)
    assert len(machine.calls) == 2 * (PAIRS_MIN + 1)


def test_noise_shows_in_the_interval() -> None:
    stream = np.random.default_rng(0)
    pairs_us = stream.lognormal(mean=[7.0, 6.9], sigma=0.3, size=(200, 2))
    result = summarize(pairs_us)
    assert result.speedup_ci95.low < result.speedup < result.speedup_ci95.high
    assert result.speedup_ci95.high - result.speedup_ci95.low > 0.05
