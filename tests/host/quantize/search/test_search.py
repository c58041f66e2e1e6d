"""`--recipe auto` on models of known sensitivities."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.contract.recipe import (
    CalibrationMethod,
    DynamicWi8Afp32,
    Fp32,
    MixedWi8Ai8,
    Recipe,
    StaticWi8Ai8,
    WeightOnlyWi8Afp32,
)
from packhorse_host.quantize.errors import ModelError
from packhorse_host.quantize.search.bench import StaticRecipe
from packhorse_host.quantize.search.policy import Budget, Preference
from packhorse_host.quantize.search.search import Goal, SearchResult, search
from tests.host.quantize.search.fake_bench import FakeBench, layer

STATIC = StaticWi8Ai8()
FOREVER = Goal(seconds=1e9)


def convolutions(*points: float) -> FakeBench:
    layers = [layer(f"conv{index}") for index in range(len(points))]
    return FakeBench(layers, {f"conv{index}": each for index, each in enumerate(points)})


def searched(bench: FakeBench, goal: Goal = FOREVER, first: Recipe = STATIC) -> SearchResult:
    return search(bench, first, STATIC, goal, lambda text: None)


def test_the_profiles_recipe_is_taken_at_once_when_it_holds() -> None:
    bench = convolutions(0.1, 0.2)
    assert searched(bench).recipe == STATIC
    assert bench.asked == [Fp32(), STATIC]


@given(st.lists(st.floats(0, 30), min_size=1, max_size=8), st.floats(0, 10))
def test_the_plan_holds_the_budget_with_as_little_float_as_the_order_allows(
    points: list[float], budget: float
) -> None:
    """Some subset always holds: with none of the layers quantized nothing is lost."""
    bench = convolutions(*points)
    found = searched(bench, Goal(Budget(budget), seconds=1e9))
    quality = bench.score(found.recipe).quality
    assert quality is not None
    assert quality.drop_points <= budget
    if isinstance(found.recipe, MixedWi8Ai8):
        kept = set(found.recipe.float_nodes)
        steps = [each for each in found.sensitivities if set(each.nodes) <= kept]
        assert steps == list(found.sensitivities[: len(steps)])
        less = kept - set(steps[-1].nodes)
        lost = sum(damage for name, damage in bench.points.items() if name not in less)
        assert lost > budget
    elif isinstance(found.recipe, Fp32):
        assert len(points) == 1 or min(points) > budget


@given(st.lists(st.floats(0, 30), min_size=1, max_size=12))
def test_the_same_model_gives_the_same_result(points: list[float]) -> None:
    first, second = searched(convolutions(*points)), searched(convolutions(*points))
    assert first == second


@pytest.mark.parametrize(
    "setting",
    [{"equalize": True}, {"correct_bias": True}, {"calibration": CalibrationMethod.MSE}],
)
def test_a_setting_that_repairs_is_found(setting: dict[str, object]) -> None:
    def repair(recipe: StaticRecipe) -> float:
        return 0.01 if all(getattr(recipe, name) == value for name, value in setting.items()) else 1.0

    bench = convolutions(5, 5)
    bench.repair = repair
    recipe = searched(bench).recipe
    assert isinstance(recipe, StaticWi8Ai8)
    assert repair(recipe) == 0.01


def test_weights_get_their_full_range_back_where_nothing_else_repairs() -> None:
    start = STATIC.model_copy(update={"reduce_range": True})
    bench = convolutions(5, 5)
    bench.repair = lambda recipe: 1.0 if recipe.reduce_range else 0.01
    found = search(bench, start, start, FOREVER, lambda text: None)
    assert found.recipe == STATIC


def test_settings_that_repair_only_together_are_found() -> None:
    bench = convolutions(50, 50)
    bench.repair = lambda recipe: 0.1 ** (3 * recipe.equalize + 2 * recipe.correct_bias)
    recipe = searched(bench, Goal(Budget(0.01), seconds=1e9)).recipe
    assert recipe == STATIC.model_copy(update={"equalize": True, "correct_bias": True})


def test_an_operator_type_that_hurts_is_left_out_before_anything_else_is_tried() -> None:
    """As text recognition wants it: convolutions only."""
    layers = [layer("conv0", cost=1e6), layer("swish", "Mul"), layer("conv1", cost=1e6)]
    bench = FakeBench(layers, {"conv0": 0.1, "swish": 80.0, "conv1": 0.1})
    found = searched(bench)
    assert found.recipe == STATIC.model_copy(update={"operators": ("Conv",)})
    assert [point.recipe for point in found.tried] == [Fp32(), STATIC, found.recipe]


def test_one_layer_that_hurts_stays_in_float() -> None:
    found = searched(convolutions(0.1, 40.0, 0.1, 0.2, 0.1))
    assert isinstance(found.recipe, MixedWi8Ai8)
    assert found.recipe.float_nodes == ("conv1",)
    assert found.sensitivities[0].nodes == ("conv1",)


def test_nothing_holds() -> None:
    found = searched(convolutions(40.0, 40.0))
    assert found.recipe == Fp32()
    assert "what holds the budget of 1 point has no integer kernels" in found.why


def test_matrix_products_are_tried_dynamically() -> None:
    bench = FakeBench([layer("product", "MatMul")], {"product": 9.0})
    assert isinstance(searched(bench).recipe, DynamicWi8Afp32)


def test_fp32_wins_where_it_is_faster() -> None:
    bench = convolutions(0.1)
    bench.speedup = lambda recipe: 0.5
    found = searched(bench)
    assert found.recipe == Fp32()
    assert "it wins on a machine of the profile's own architecture" in found.why


def test_the_faster_one_wins() -> None:
    """Fewer integers can be faster, where conversions cost more than they save."""
    layers = [layer("conv", cost=1e6), layer("add", "Add")]
    bench = FakeBench(layers, {"conv": 0.1, "add": 0.1})
    bench.speedup = lambda recipe: 0.8 if getattr(recipe, "operators", None) is None else 1.5
    assert searched(bench).recipe == STATIC.model_copy(update={"operators": ("Conv",)})


def test_a_latency_that_was_not_measured_picks_nothing() -> None:
    found = searched(convolutions(0.1))
    assert all(point.race is None for point in found.tried)
    assert "latency was not measured" in found.why


def test_the_smallest_is_found_on_request() -> None:
    found = searched(convolutions(0.1), Goal(preference=Preference.SIZE, seconds=1e9, thorough=True))
    assert isinstance(found.recipe, WeightOnlyWi8Afp32)


def test_without_labels_the_outputs_decide() -> None:
    bench = convolutions(0.1, 40.0, 0.1)
    bench.labelled = False
    found = searched(bench)
    assert isinstance(found.recipe, MixedWi8Ai8)
    assert "20 dB" in found.why


def test_thorough_tries_all_and_takes_no_less_integers() -> None:
    bench = convolutions(0.1, 0.1)
    found = searched(bench, Goal(thorough=True, seconds=1e9))
    tried = [point.recipe for point in found.tried]
    assert len(tried) > 8
    assert len(set(map(repr, tried))) == len(tried)
    assert found.recipe == STATIC


def test_a_candidate_that_does_not_work_is_told_and_passed_over() -> None:
    bench = convolutions(9.0)
    bench.broken = lambda recipe: getattr(recipe, "calibration", None) is CalibrationMethod.MSE
    bench.repair = lambda recipe: 0.01 if recipe.calibration is CalibrationMethod.PERCENTILE else 1.0
    found = searched(bench)
    assert [point.fault for point in found.tried if point.fault] == ["does not quantize"]
    assert getattr(found.recipe, "calibration", None) is CalibrationMethod.PERCENTILE


def test_a_model_that_does_not_quantize_at_all_stays_fp32() -> None:
    bench = convolutions(0.1)
    bench.broken = lambda recipe: not isinstance(recipe, Fp32)
    assert searched(bench).recipe == Fp32()


def test_a_float_model_that_does_not_run_is_an_error() -> None:
    bench = convolutions(0.1)
    bench.broken = lambda recipe: True
    with pytest.raises(ModelError):
        searched(bench)


def test_a_profile_that_prefers_fp32_gets_it() -> None:
    found = searched(convolutions(0.1), first=Fp32())
    assert (found.recipe, found.why) == (Fp32(), "fp32: the profile prefers it")


def test_time_is_bounded_and_what_was_found_by_then_counts() -> None:
    """The first candidate is tried in any case."""

    def hours() -> Iterator[float]:
        now = 0.0
        while True:
            yield now
            now += 3600.0

    clock = hours()
    found = search(convolutions(9.0, 9.0), STATIC, STATIC, Goal(), lambda text: None, lambda: next(clock))
    assert found.out_of_time
    assert [point.recipe for point in found.tried] == [Fp32(), STATIC]
    assert found.recipe == Fp32()


def test_every_candidate_is_announced_with_its_reason() -> None:
    said: list[str] = []
    search(convolutions(0.1, 40.0, 0.1), STATIC, STATIC, FOREVER, said.append)
    assert said[0] == "candidate 1: static_wi8_ai8 (what the profile prefers)"
    assert any("mixed_wi8_ai8, 1 node in float (by sensitivity)" in text for text in said)
