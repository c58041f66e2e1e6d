"""The latency sketch merges exactly, errs by a bounded share, and stays small."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.limits import SKETCH_MAX_BUCKETS
from packhorse_agent.contract.sketch import RELATIVE_ERROR_BOUND, SCALE, LatencySketch, merged

LATENCIES_US = st.floats(min_value=1e-3, max_value=1e12)
LISTS = st.lists(LATENCIES_US | st.just(0.0), max_size=60)


def sketch_of(values: list[float]) -> LatencySketch:
    sketch = LatencySketch()
    for value in values:
        sketch.add(value)
    return sketch


class TestLaws:
    @given(st.lists(LISTS, max_size=6))
    def test_merging_parts_is_adding_all(self, parts: list[list[float]]) -> None:
        assert merged(map(sketch_of, parts)) == sketch_of([value for part in parts for value in part])

    @given(LISTS, LISTS)
    def test_the_order_of_merging_does_not_matter(self, one: list[float], other: list[float]) -> None:
        assert merged([sketch_of(one), sketch_of(other)]) == merged([sketch_of(other), sketch_of(one)])

    @given(LISTS)
    def test_decoding_gives_back_what_was_encoded(self, values: list[float]) -> None:
        sketch = sketch_of(values)
        assert LatencySketch.decode(sketch.encode()) == sketch

    @given(st.lists(LATENCIES_US, min_size=1, max_size=200), st.floats(0, 1))
    def test_a_quantile_is_within_the_bound_of_the_true_one(self, values: list[float], q: float) -> None:
        true_us = sorted(values)[max(math.ceil(q * len(values)), 1) - 1]
        found_us = sketch_of(values).quantile_us(q)
        assert found_us == pytest.approx(true_us, rel=RELATIVE_ERROR_BOUND * (1 + 1e-9))

    @given(LISTS.filter(bool))
    def test_quantiles_never_decrease(self, values: list[float]) -> None:
        sketch = sketch_of(values)
        found = [sketch.quantile_us(step / 10) for step in range(11)]
        assert found == sorted(found, key=lambda value: value or 0.0)

    def test_the_bound_is_the_one_that_is_promised(self) -> None:
        assert RELATIVE_ERROR_BOUND <= 0.011


class TestSize:
    def test_a_hundred_parts_of_a_lognormal_fit_in_500_bytes(self) -> None:
        """1e5 latencies around 12 ms from 100 parts; p50, p95 and p99 within 1.1 %."""
        random = Random(20)
        parts, all_us = [], []
        for _ in range(100):
            values = [random.lognormvariate(math.log(12_000), 0.4) for _ in range(1000)]
            all_us += values
            parts.append(LatencySketch.decode(sketch_of(values).encode()))
        total = merged(parts)
        all_us.sort()
        assert total.count == 100_000
        assert len(total.encode()) <= 500
        for q in (0.5, 0.95, 0.99):
            assert total.quantile_us(q) == pytest.approx(all_us[math.ceil(q * 100_000) - 1], rel=0.011)

    def test_an_empty_one_takes_three_bytes(self) -> None:
        assert len(LatencySketch().encode()) == 3


class TestEdges:
    def test_an_empty_one_has_no_quantile(self) -> None:
        assert LatencySketch().quantile_us(0.5) is None
        assert LatencySketch().count == 0

    @pytest.mark.parametrize("value", [0.0, -1.0, -math.inf, math.nan])
    def test_what_is_no_positive_time_counts_as_zero(self, value: float) -> None:
        sketch = sketch_of([value, 8.0])
        assert sketch.count == 2
        assert sketch.quantile_us(0.5) == 0.0
        assert LatencySketch.decode(sketch.encode()) == sketch

    @pytest.mark.parametrize("value", [math.inf, 1e300, 5e-324])
    def test_extremes_stay_encodable(self, value: float) -> None:
        sketch = sketch_of([value, 1.0])
        assert LatencySketch.decode(sketch.encode()) == sketch

    @pytest.mark.parametrize("q", [-0.01, 1.01, math.nan])
    def test_a_quantile_outside_0_to_1_is_refused(self, q: float) -> None:
        with pytest.raises(ValueError, match="between 0 and 1"):
            sketch_of([1.0]).quantile_us(q)

    def test_merging_leaves_the_other_one_alone(self) -> None:
        one, other = sketch_of([1.0]), sketch_of([2.0])
        one.merge(other)
        one.add(2.0)
        assert other == sketch_of([2.0])

    def test_buckets_cannot_be_changed_from_outside(self) -> None:
        with pytest.raises(TypeError):
            sketch_of([1.0]).buckets[0] = 5  # type: ignore[index]

    def test_it_equals_only_sketches_and_has_no_hash(self) -> None:
        assert sketch_of([1.0]) != 1.0
        with pytest.raises(TypeError):
            hash(LatencySketch())


def varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


GOOD = sketch_of([0.0, 100.0, 250.0]).encode()
FAR = 2 * SKETCH_MAX_BUCKETS


class TestMalformed:
    @pytest.mark.parametrize(
        "encoded",
        [
            pytest.param(b"", id="empty"),
            pytest.param(bytes([SCALE + 1]) + GOOD[1:], id="another scale"),
            pytest.param(bytes([SCALE]), id="no counts"),
            pytest.param(bytes([SCALE, 0]), id="no width"),
            pytest.param(bytes([SCALE, 0, 1]), id="no lowest bucket"),
            pytest.param(GOOD[:-1], id="a count is missing"),
            pytest.param(GOOD + b"\x00", id="a byte left over"),
            pytest.param(GOOD[:-1] + b"\x80", id="a number that does not end"),
            pytest.param(bytes([SCALE, 0x80]), id="the first number does not end"),
            pytest.param(bytes([SCALE]) + b"\xff" * 12 + b"\x01", id="a number over 63 bits"),
            pytest.param(bytes([SCALE, 0]) + varint(SKETCH_MAX_BUCKETS + 1) + b"\x00", id="too many buckets"),
            pytest.param(bytes([SCALE, 0]) + varint(2**62), id="far too many buckets"),
            pytest.param(bytes([SCALE, 0, 1]) + varint(FAR) + b"\x01", id="a bucket too high"),
            pytest.param(bytes([SCALE, 0, 1]) + varint(FAR - 1) + b"\x01", id="a bucket too low"),
        ],
    )
    def test_it_is_refused(self, encoded: bytes) -> None:
        with pytest.raises(MalformedMessageError):
            LatencySketch.decode(encoded)

    @given(st.binary(max_size=200))
    def test_rubbish_is_read_or_refused_and_never_crashes(self, rubbish: bytes) -> None:
        try:
            sketch = LatencySketch.decode(rubbish)
        except MalformedMessageError:
            return
        assert LatencySketch.decode(sketch.encode()) == sketch

    @given(st.data())
    def test_every_truncation_is_refused(self, data: st.DataObject) -> None:
        cut = data.draw(st.integers(0, len(GOOD) - 1))
        with pytest.raises(MalformedMessageError):
            LatencySketch.decode(GOOD[:cut])
