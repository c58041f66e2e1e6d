"""How much may be in flight, and what is given up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.contract.limits import WINDOW_MAX_CHUNKS, WINDOW_START_CHUNKS
from packhorse_agent.transfer.flow import (
    BACKOFF_MAX_S,
    SILENCE_MAX_S,
    SILENCE_MIN_S,
    WINDOW_MIN_CHUNKS,
    ChunkKey,
    Flow,
)


def _flow(draw: float = 0.0) -> Flow:
    return Flow(lambda: draw)


def _keys(*numbers: int) -> list[ChunkKey]:
    return [("blob", number) for number in numbers]


def test_a_transfer_begins_with_eight_chunks() -> None:
    assert _flow().grant() == WINDOW_START_CHUNKS == 8


def test_nothing_more_is_granted_before_half_a_window_has_come() -> None:
    flow = _flow()
    flow.asked(_keys(*range(8)), 0.0)
    assert flow.grant() == 0
    grants = []
    for number in range(8):
        flow.arrived(("blob", number), 0.0)
        grants.append(flow.grant())
    # after n chunks 2 n of 8 + n are free
    assert grants == [0, 0, 6, 8, 10, 12, 14, 16]


def _run_without_loss(flow: Flow, chunks: int) -> None:
    sent: list[ChunkKey] = []
    number = 0
    while number < chunks or sent:
        if grant := min(flow.grant(), chunks - number):
            asked = _keys(*range(number, number + grant))
            number += grant
            flow.asked(asked, 0.0)
            sent += asked
        assert flow.arrived(sent.pop(0), 0.0) == []


def test_without_loss_the_window_opens_to_its_limit_and_nothing_is_given_up() -> None:
    flow = _flow()
    _run_without_loss(flow, 500)
    assert flow.window == WINDOW_MAX_CHUNKS == 64


def test_a_chunk_is_given_up_when_one_of_a_window_later_has_come() -> None:
    flow = _flow()
    flow.asked(_keys(*range(100)), 0.0)
    # the window grows by one with each arrival: after n chunks it is 8 + n
    assert flow.arrived(("blob", 9), 0.0) == []
    assert flow.arrived(("blob", 10), 0.0) == []
    assert flow.arrived(("blob", 11), 0.0) == []
    assert flow.arrived(("blob", 14), 0.0) == _keys(0, 1)
    assert ("blob", 0) not in flow.in_flight


def test_a_loss_halves_the_window_once() -> None:
    flow = _flow()
    _run_without_loss(flow, 500)
    flow.asked(_keys(*range(1000, 1200)), 0.0)
    assert len(flow.arrived(("blob", 1070), 0.0)) == 6
    assert flow.window == 32
    assert len(flow.arrived(("blob", 1080), 0.0)) == 48 - 6
    assert flow.window == 32


def test_after_a_loss_the_window_grows_by_one_a_window() -> None:
    flow = _flow()
    flow.asked(_keys(*range(20)), 0.0)
    assert flow.arrived(("blob", 19), 0.0) == _keys(*range(10))
    assert flow.window == WINDOW_MIN_CHUNKS
    flow.forget("blob")
    _run_without_loss(flow, WINDOW_MIN_CHUNKS)
    assert flow.window == WINDOW_MIN_CHUNKS + 1


@pytest.mark.parametrize(("draw", "expected_s"), [(0.0, SILENCE_MIN_S), (0.5, 2.0), (1.0, SILENCE_MAX_S)])
def test_the_first_silence_is_one_to_three_seconds(draw: float, expected_s: float) -> None:
    flow = _flow(draw)
    flow.asked(_keys(0), 10.0)
    assert flow.deadline_s() == 10.0 + expected_s


def test_each_silence_is_twice_as_long_up_to_thirty_seconds() -> None:
    flow, now_s, waits = _flow(), 0.0, []
    for _ in range(7):
        flow.asked(_keys(0, 1), now_s)
        deadline_s = flow.deadline_s()
        assert deadline_s is not None
        waits.append(deadline_s - now_s)
        assert flow.silent() == _keys(0, 1)
        now_s = deadline_s
    assert waits == [1, 2, 4, 8, 16, BACKOFF_MAX_S, BACKOFF_MAX_S]


def test_an_arrival_ends_the_long_waits() -> None:
    flow = _flow()
    for _ in range(5):
        flow.asked(_keys(0, 1), 0.0)
        flow.silent()
    flow.asked(_keys(0, 1), 0.0)
    flow.arrived(("blob", 0), 0.5)
    assert flow.deadline_s() == 0.5 + SILENCE_MIN_S


def test_a_reconnection_ends_the_long_waits() -> None:
    flow = _flow()
    for _ in range(5):
        flow.asked(_keys(0), 0.0)
        flow.silent()
    flow.asked(_keys(0), 0.0)
    assert flow.restart() == _keys(0)
    flow.asked(_keys(0), 100.0)
    assert flow.deadline_s() == 100.0 + SILENCE_MIN_S


def test_a_slow_link_is_given_the_time_that_it_takes() -> None:
    flow, now_s = _flow(), 0.0
    flow.asked(_keys(*range(50)), now_s)
    for number in range(40):
        now_s += 5.0
        flow.arrived(("blob", number), now_s)
    deadline_s = flow.deadline_s()
    assert deadline_s is not None and 15.0 < deadline_s - now_s <= 20.0


def test_nothing_in_flight_has_no_deadline() -> None:
    flow = _flow()
    assert flow.deadline_s() is None
    flow.asked(_keys(0), 0.0)
    flow.arrived(("blob", 0), 0.0)
    assert flow.deadline_s() is None


def test_forgetting_one_blob_keeps_the_others() -> None:
    flow = _flow()
    flow.asked([("a", 0), ("b", 0), ("a", 1)], 0.0)
    assert flow.forget("a") == [("a", 0), ("a", 1)]
    assert list(flow.in_flight) == [("b", 0)]


def test_a_chunk_that_nobody_asked_for_is_progress_all_the_same() -> None:
    flow = _flow()
    flow.asked(_keys(0), 0.0)
    assert flow.arrived(("other", 7), 0.5) == []
    assert flow.deadline_s() == 0.5 + SILENCE_MIN_S
    assert list(flow.in_flight) == _keys(0)


@given(st.data())
def test_any_course_of_events_keeps_the_laws(data: st.DataObject) -> None:
    """In flight ≤ window when asked; a chunk is lost or arrives, never both; the window keeps its bounds."""
    flow, number, now_s = _flow(), 0, 0.0
    expected: set[ChunkKey] = set()
    for _ in range(data.draw(st.integers(1, 60))):
        if grant := flow.grant():
            keys = _keys(*range(number, number + data.draw(st.integers(1, grant))))
            number += len(keys)
            flow.asked(keys, now_s)
            expected |= set(keys)
            assert len(flow.in_flight) <= flow.window
        now_s += data.draw(st.floats(0, 5))
        if expected and data.draw(st.integers(0, 9)) > 0:
            key = sorted(expected)[data.draw(st.integers(0, len(expected) - 1))]
            lost = set(flow.arrived(key, now_s))
            assert lost < expected and key not in lost
            expected -= lost | {key}
        else:
            assert set(flow.silent()) == expected
            expected.clear()
        assert set(flow.in_flight) == expected
        assert WINDOW_MIN_CHUNKS <= flow.window <= WINDOW_MAX_CHUNKS
