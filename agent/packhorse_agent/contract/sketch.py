"""The latency sketch: exact to merge, bounded in relative error, small on the wire.

Base-2 logarithmic buckets at scale 5 (32 buckets an octave), as the exponential histogram of the
OpenTelemetry data model: a value `v > 0` falls into bucket `ceil(log2(v) * 32) - 1`. The middle of a
bucket (in the logarithm) is at most `2 ** (1 / 64) - 1` = 1.09 % from any value in it.

Encoding: scale (1 byte), count of zeros, number of buckets, then, when there are any, the lowest bucket
(zigzag) and the count of each bucket in order; all varints (LEB128).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.limits import SKETCH_MAX_BUCKETS

SCALE = 5
_PER_OCTAVE = 1 << SCALE
RELATIVE_ERROR_BOUND = 2.0 ** (1 / (2 * _PER_OCTAVE)) - 1
_LOWEST, _HIGHEST = -SKETCH_MAX_BUCKETS // 2, SKETCH_MAX_BUCKETS // 2 - 1


class LatencySketch:
    """Counts of latencies in microseconds by logarithmic bucket."""

    __slots__ = ("_buckets", "_zeros")

    def __init__(self, buckets: Mapping[int, int] | None = None, zeros: int = 0) -> None:
        self._buckets: dict[int, int] = dict(buckets or {})
        self._zeros = zeros

    @property
    def count(self) -> int:
        """How many values were added."""
        return self._zeros + sum(self._buckets.values())

    @property
    def buckets(self) -> Mapping[int, int]:
        """Bucket number → count, read-only."""
        return MappingProxyType(self._buckets)

    def add(self, latency_us: float) -> None:
        """Count one latency in microseconds; negative and not-a-number values count as zero."""
        if not latency_us > 0.0:
            self._zeros += 1
            return
        exact = math.log2(latency_us) * _PER_OCTAVE if math.isfinite(latency_us) else float(_HIGHEST)
        index = min(max(math.ceil(exact) - 1, _LOWEST), _HIGHEST)
        self._buckets[index] = self._buckets.get(index, 0) + 1

    def merge(self, other: LatencySketch) -> None:
        """Add all counts of `other`. Law: merging parts equals adding all values to one sketch."""
        self._zeros += other._zeros
        for index, count in other._buckets.items():
            self._buckets[index] = self._buckets.get(index, 0) + count

    def quantile_us(self, q: float) -> float | None:
        """The value below which a share `q` (0 to 1) lies, by nearest rank; None when empty.

        Raises:
            ValueError: `q` is outside 0 to 1.
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"a quantile lies between 0 and 1, not at {q}")
        total = self.count
        if total == 0:
            return None
        rank = max(math.ceil(q * total), 1)
        seen = self._zeros
        if rank <= seen:
            return 0.0
        for index in sorted(self._buckets):
            seen += self._buckets[index]
            if rank <= seen:
                return float(2.0 ** ((index + 0.5) / _PER_OCTAVE))
        raise AssertionError("ranks end before the total")

    def encode(self) -> bytes:
        """Bytes for the wire. Law: `LatencySketch.decode(s.encode()) == s`."""
        parts = bytearray([SCALE])
        parts += _varint(self._zeros)
        if not self._buckets:
            return bytes(parts + _varint(0))
        low, high = min(self._buckets), max(self._buckets)
        parts += _varint(high - low + 1) + _varint(_zigzag(low))
        for index in range(low, high + 1):
            parts += _varint(self._buckets.get(index, 0))
        return bytes(parts)

    @staticmethod
    def decode(encoded: bytes) -> LatencySketch:
        """Read an encoded sketch.

        Raises:
            MalformedMessageError: another scale, too many buckets, truncated, or bytes left over.
        """
        if not encoded or encoded[0] != SCALE:
            raise MalformedMessageError(f"not a sketch of scale {SCALE}")
        numbers = _varints(encoded[1:])
        try:
            zeros, width = next(numbers), next(numbers)
            if width > SKETCH_MAX_BUCKETS:
                raise MalformedMessageError(f"sketch of {width} buckets")
            low = _unzigzag(next(numbers)) if width else 0
            counts = [next(numbers) for _ in range(width)]
        except StopIteration as error:
            raise MalformedMessageError("sketch is truncated") from error
        if next(numbers, None) is not None:
            raise MalformedMessageError("sketch has bytes left over")
        if width and not _LOWEST <= low <= low + width - 1 <= _HIGHEST:
            raise MalformedMessageError(f"sketch begins at bucket {low}")
        return LatencySketch({low + at: count for at, count in enumerate(counts) if count}, zeros)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LatencySketch):
            return NotImplemented
        return self._zeros == other._zeros and self._buckets == other._buckets

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"LatencySketch(count={self.count}, p50_us={self.quantile_us(0.5)})"


def merged(sketches: Iterable[LatencySketch]) -> LatencySketch:
    """One sketch with the counts of all."""
    total = LatencySketch()
    for sketch in sketches:
        total.merge(sketch)
    return total


def _zigzag(number: int) -> int:
    return number * 2 if number >= 0 else -number * 2 - 1


def _unzigzag(number: int) -> int:
    return number // 2 if number % 2 == 0 else -(number + 1) // 2


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _varints(encoded: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in encoded:
        number |= (byte & 0x7F) << shift
        shift += 7
        if shift > 63:
            raise MalformedMessageError("sketch holds a number over 63 bits")
        if not byte & 0x80:
            yield number
            number = shift = 0
    if shift:
        raise MalformedMessageError("sketch is truncated")
