"""Timing in pairs and rounds, on a clock of our own."""

from __future__ import annotations

import numpy as np
import pytest

from packhorse_host.evaluate.latency import (
    PAIRS_MAX,
    PAIRS_MIN,
    ROUNDS_MAX,
    ROUNDS_MIN,
    WARM_UP_PAIRS,
    Race,
    Run,
    race,
    summarize,
)


class Machine:
    """Two models that take the time they are told, on a machine that slows down steadily."""

    def __init__(self, fp32_s: float, bundle_s: float, slowing: float = 1.0, opening_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.calls: list[str] = []
        self.opened = 0
        self.luck = [1.0]
        """Factors on the bundle's time, by round: where its threads landed."""
        self._cost_s = {"fp32": fp32_s, "bundle": bundle_s}
        self._slowing = slowing
        self._opening_s = opening_s

    def open_both(self) -> tuple[Run, Run]:
        luck = self.luck[self.opened % len(self.luck)]
        self.opened += 1
        self.now_s += self._opening_s
        return lambda: self._run("fp32", 1.0), lambda: self._run("bundle", luck)

    def race(self, budget_s: float) -> Race:
        return race(self.open_both, budget_s=budget_s, clock=lambda: self.now_s)

    def _run(self, model: str, luck: float) -> None:
        self.calls.append(model)
        self.now_s += self._cost_s[model] * luck * self._slowing ** len(self.calls)


def test_speedup_is_the_ratio_of_medians() -> None:
    result = Machine(fp32_s=0.003, bundle_s=0.001).race(budget_s=1)
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
    result = Machine(0.001, 0.001, slowing=1.01).race(budget_s=0)
    assert result.speedup == pytest.approx(1.0, abs=0.02)


def test_a_session_that_had_luck_does_not_decide() -> None:
    """One round of four in which the bundle's threads sat well widens the interval beyond 1."""
    machine = Machine(0.001, 0.001)
    machine.luck = [0.4, 1.05, 1.0, 0.4, 1.1]
    interval = machine.race(budget_s=1e9).speedup_ci95
    assert interval.low < 1.0 < interval.high


@pytest.mark.parametrize(
    ("budget_s", "pairs"),
    [(0.0, ROUNDS_MIN * PAIRS_MIN), (1e9, ROUNDS_MAX * PAIRS_MAX)],
)
def test_a_budget_bounds_it(budget_s: float, pairs: int) -> None:
    assert Machine(0.001, 0.001).race(budget_s).fp32.inferences == pairs


def test_a_model_that_loads_slowly_is_loaded_less_often() -> None:
    machine = Machine(0.001, 0.001, opening_s=5.0)
    machine.race(budget_s=1.0)
    assert machine.opened == ROUNDS_MIN


def test_noise_shows_in_the_interval() -> None:
    stream = np.random.default_rng(0)
    rounds = [stream.lognormal(mean=[7.0, 6.9], sigma=0.3, size=(length, 2)) for length in (20, 25, 30, 20)]
    result = summarize(rounds)
    assert result.fp32.inferences == 95
    assert result.speedup_ci95.low < result.speedup < result.speedup_ci95.high
    assert result.speedup_ci95.high - result.speedup_ci95.low > 0.03
