"""Waits grow, are spread, and begin again."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.link.backoff import Backoff


@given(st.integers(), st.integers(0, 200))
def test_a_wait_lies_between_the_minimum_and_a_doubling_ceiling(seed: int, failures: int) -> None:
    backoff = Backoff(minimum_s=0.25, maximum_s=60.0, random=random.Random(seed))
    delays = [backoff.next_delay_s() for _ in range(failures + 1)]
    for at, delay_s in enumerate(delays):
        assert 0.25 <= delay_s <= min(60.0, 0.25 * 4 * 2.0**at)


def test_a_fleet_does_not_return_at_the_same_moment() -> None:
    delays = [Backoff(random=random.Random(device)).next_delay_s() for device in range(100)]
    assert max(delays) - min(delays) > 0.5


def test_after_a_success_it_begins_again() -> None:
    backoff = Backoff(random=random.Random(1))
    for _ in range(20):
        backoff.next_delay_s()
    backoff.reset()
    assert backoff.next_delay_s() <= 1.0
