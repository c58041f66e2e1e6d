"""CPU time since the last look."""

from __future__ import annotations

import pytest

from packhorse_agent.measure.usage import CpuUsage


def test_the_first_look_counts_from_the_start_of_the_worker() -> None:
    assert CpuUsage().spent_s(10, 1.5) == 1.5


def test_later_looks_count_the_difference() -> None:
    usage = CpuUsage()
    usage.spent_s(10, 1.5)
    usage.spent_s(11, 7.0)
    assert usage.spent_s(10, 1.75) == pytest.approx(0.25)
    assert usage.spent_s(11, 7.0) == 0.0


def test_a_lower_total_is_a_new_worker() -> None:
    usage = CpuUsage()
    usage.spent_s(10, 100.0)
    assert usage.spent_s(10, 0.5) == 0.5


def test_a_number_that_comes_back_counts_anew() -> None:
    usage = CpuUsage()
    usage.spent_s(10, 1.0)
    usage.spent_s(11, 1.0)
    usage.forget_all_but({11})
    assert usage.spent_s(10, 3.0) == 3.0
    assert usage.spent_s(11, 3.0) == 2.0
