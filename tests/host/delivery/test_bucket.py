"""The rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_host.delivery.bucket import TokenBucket


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    bucket = TokenBucket(rate_bytes_per_s=100, burst_bytes=50, now_s=0.0)
    assert bucket.due_s(0.0) == 0.0
    bucket.take(150, 0.0)
    assert bucket.due_s(0.0) == 1.0
    assert bucket.due_s(0.5) == 1.0
    assert bucket.due_s(1.0) == 1.0


def test_idle_time_saves_no_more_than_a_burst() -> None:
    bucket = TokenBucket(rate_bytes_per_s=100, burst_bytes=50, now_s=0.0)
    bucket.take(100, 1000.0)
    assert bucket.due_s(1000.0) == pytest.approx(1000.5)


@given(st.lists(st.tuples(st.integers(1, 70_000), st.floats(0, 1)), min_size=1, max_size=60))
def test_never_more_than_the_rate_a_burst_and_one_frame(steps: list[tuple[int, float]]) -> None:
    rate, burst = 100_000.0, 10_000.0
    bucket, now_s, sent_bytes = TokenBucket(rate, burst, 0.0), 0.0, 0
    for size_bytes, wait_s in steps:
        now_s = max(now_s + wait_s, bucket.due_s(now_s + wait_s))
        assert sent_bytes <= rate * now_s + burst + 1e-3
        bucket.take(size_bytes, now_s)
        sent_bytes += size_bytes
