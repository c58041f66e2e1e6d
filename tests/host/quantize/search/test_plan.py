"""Layers that hurt are found and left in float: as few as the budget allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from packhorse_host.quantize.search.bench import Layer
from packhorse_host.quantize.search.plan import (
    Sensitivity,
    by_operator,
    greedy,
    measure,
    shortest_prefix,
)
from tests.host.quantize.search.fake_bench import layer

DAMAGES = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=60)


def measured(damages: list[float], measurements: int = 10**6) -> tuple[list[Sensitivity], int]:
    """Sensitivities of layers that hurt by themselves, and how many measurements it took."""
    layers = tuple(layer(str(index)) for index in range(len(damages)))
    asked: list[tuple[Layer, ...]] = []

    def damage(group: tuple[Layer, ...]) -> float:
        asked.append(group)
        return sum(damages[int(each.nodes[0])] for each in group)

    found = measure([layers], damage, lambda: len(asked) >= measurements)
    return found, len(asked)


@given(DAMAGES, st.integers(1, 20))
def test_every_layer_is_in_one_group_however_short_the_time(damages: list[float], allowed: int) -> None:
    for measurements in (allowed, 10**6):
        found, _ = measured(damages, measurements)
        names = sorted(int(node) for each in found for node in each.nodes)
        assert names == list(range(len(damages)))


@given(DAMAGES)
def test_what_hurts_is_found_alone(damages: list[float]) -> None:
    """A layer that does more than a hundredth of all damage is never hidden in a group."""
    found, _ = measured(damages)
    for index, damage in enumerate(damages):
        if damage > 0.01 * sum(damages):
            assert any(each.nodes == (str(index),) for each in found)


def test_one_bad_layer_of_many_costs_few_measurements() -> None:
    damages = [1e-6] * 500
    damages[321] = 1.0
    found, measurements = measured(damages)
    assert greedy(found)[0].nodes == ("321",)
    assert measurements < 40


@given(DAMAGES)
def test_the_order_is_by_damage_for_the_cost(damages: list[float]) -> None:
    ordered = greedy(measured(damages)[0])
    ratios = [each.damage / each.cost for each in ordered]
    assert ratios == sorted(ratios, reverse=True)


def test_a_dear_layer_waits_for_cheap_ones() -> None:
    """Leaving a large convolution in float costs more than a small activation that hurts half as much."""
    dear = Sensitivity((layer("conv", cost=1e6),), 0.2)
    cheap = Sensitivity((layer("sigmoid", "Sigmoid", cost=1e3),), 0.1)
    assert greedy([dear, cheap]) == [cheap, dear]


@given(st.integers(1, 200), st.integers(1, 300))
def test_the_prefix_is_the_shortest_for_damage_that_adds_up(length: int, threshold: int) -> None:
    asked: list[int] = []

    def holds(steps: int) -> bool:
        asked.append(steps)
        return steps >= threshold

    found = shortest_prefix(length, holds)
    assert found == (threshold if threshold <= length else None)
    assert len(asked) <= 2 * length.bit_length() + 2
    assert len(set(asked)) == len(asked)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_the_prefix_holds_and_one_step_less_does_not(answers: list[bool]) -> None:
    """Also where measuring is noisy."""
    found = shortest_prefix(len(answers), lambda steps: answers[steps - 1])
    if found is None:
        assert not answers[-1]
    else:
        assert answers[found - 1]
        assert found == 1 or not answers[found - 2]


def test_operators_keep_the_order_of_the_graph() -> None:
    layers = [layer("a"), layer("b", "Add"), layer("c")]
    assert [[each.nodes[0] for each in group] for group in by_operator(layers)] == [["a", "c"], ["b"]]
