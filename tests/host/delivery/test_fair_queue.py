"""Who gets the next chunk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from packhorse_host.delivery.fair_queue import ChunkKey, FairQueue


def _drain(queue: FairQueue) -> list[tuple[str, ChunkKey]]:
    taken = []
    while (item := queue.take()) is not None:
        taken.append(item)
    return taken


def _chunks(*numbers: int, blob: str = "blob") -> list[ChunkKey]:
    return [(blob, number) for number in numbers]


def test_devices_take_turns_and_each_gets_its_own_order() -> None:
    queue = FairQueue(10)
    assert queue.offer("greedy", _chunks(5, 4, 3, 2))
    assert queue.offer("modest", _chunks(9))
    taken = [(device, chunk[1]) for device, chunk in _drain(queue)]
    assert taken == [("greedy", 5), ("modest", 9), ("greedy", 4), ("greedy", 3), ("greedy", 2)]


def test_no_chunk_stands_in_a_queue_twice() -> None:
    queue = FairQueue(10)
    queue.offer("a", _chunks(1, 2, 2))
    queue.offer("a", _chunks(2, 3))
    queue.offer("b", _chunks(2))
    assert len(queue) == 4
    assert [chunk[1] for device, chunk in _drain(queue) if device == "a"] == [1, 2, 3]


def test_more_than_the_share_is_refused_whole() -> None:
    queue = FairQueue(3)
    assert queue.offer("a", _chunks(1, 2))
    assert not queue.offer("a", _chunks(3, 4))
    assert queue.offer("a", _chunks(1, 2, 3))
    assert queue.offer("b", _chunks(1, 2, 3))
    assert len(queue) == 6


def test_dropping_one_blob_keeps_the_rest() -> None:
    queue = FairQueue(10)
    queue.offer("a", _chunks(1, 2) + _chunks(1, blob="other"))
    queue.offer("b", _chunks(1))
    queue.drop("a", "blob")
    queue.drop("nobody", "blob")
    assert len(queue) == 2
    queue.drop("a", "other")
    assert _drain(queue) == [("b", ("blob", 1))]
    assert queue.take() is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 6), max_size=6)), max_size=20))
def test_what_is_offered_and_not_refused_comes_out_once(offers: list[tuple[str, list[int]]]) -> None:
    queue, expected = FairQueue(5), set[tuple[str, ChunkKey]]()
    for device, numbers in offers:
        if queue.offer(device, _chunks(*numbers)):
            expected |= {(device, chunk) for chunk in _chunks(*numbers)}
    assert len(queue) == len(expected)
    taken = _drain(queue)
    assert len(taken) == len(expected)
    assert set(taken) == expected
    assert len(queue) == 0
