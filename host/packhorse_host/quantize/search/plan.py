"""Which layers to leave in floating point: as few as the budget allows, the most harmful first. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from packhorse_host.quantize.search.bench import Layer

PARTS: Final = 8
"""A group of layers is split in as many parts, evenly over the graph."""
NEGLIGIBLE: Final = 0.005
"""Groups that do less than this share of all damage are not looked into."""


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing these layers alone does to the outputs."""

    layers: tuple[Layer, ...]
    damage: float
    """Noise power over signal power."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """Of all the layers."""
        return tuple(node for layer in self.layers for node in layer.nodes)

    @property
    def cost(self) -> float:
        """Of leaving them in floating point."""
        return sum(layer.cost for layer in self.layers)


def by_operator(layers: Iterable[Layer]) -> list[tuple[Layer, ...]]:
    """Layers grouped by operator type, in the order of first appearance."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.operator, []).append(layer)
    return [tuple(group) for group in groups.values()]


def measure(
    groups: Iterable[tuple[Layer, ...]],
    damage: Callable[[tuple[Layer, ...]], float],
    out_of_time: Callable[[], bool],
) -> list[Sensitivity]:
    """Find the layers that hurt: groups first, then their parts, the most harmful group before the others.

    Noise of single layers adds up where they are independent, so a group that does little holds no layer
    that does much. What is not looked into for want of time stays one entry.

    Args:
        groups: to begin with, together all layers.
        damage: measured with only these layers quantized.
        out_of_time: asked before each further measurement; the first groups are always measured.
    """
    turn = count()
    heap: list[tuple[float, int, Sensitivity]] = []
    done: list[Sensitivity] = []

    def put(group: tuple[Layer, ...]) -> None:
        found = Sensitivity(group, damage(group))
        if len(group) == 1:
            done.append(found)
        else:
            heapq.heappush(heap, (-found.damage, next(turn), found))

    for group in groups:
        put(group)
    while heap:
        total = sum(-worst for worst, _, _ in heap) + sum(each.damage for each in done)
        _, _, worst = heapq.heappop(heap)
        if out_of_time() or worst.damage <= NEGLIGIBLE * total:
            done.append(worst)
        else:
            for part in _parts(worst.layers):
                put(part)
    return done


def greedy(found: Iterable[Sensitivity]) -> list[Sensitivity]:
    """In the order in which they go to float: the most damage for the least cost first."""
    return sorted(found, key=lambda each: (-each.damage / max(each.cost, 1.0), each.nodes))


def shortest_prefix(length: int, holds: Callable[[int], bool]) -> int | None:
    """The smallest number of steps that is found to hold; None if not even `length` is.

    Law: with n the result, `holds(n)`, and not `holds(n - 1)` for n > 1; for a `holds` that never
    turns false again, nothing shorter does. Asks at most 2 log2(length) + 2 times; 0 is not asked.
    """
    low, high = 0, 1
    while not holds(min(high, length)):
        low, high = min(high, length), 2 * high
        if low == length:
            return None
    high = min(high, length)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _parts(layers: Sequence[Layer]) -> list[tuple[Layer, ...]]:
    size = -(-len(layers) // PARTS)
    return [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]
