"""What refuses a bundle, and what is only said."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from packhorse_agent.contract.exit_codes import ExitCode
from packhorse_agent.contract.manifest import Evidence, Interval, Quality
from packhorse_agent.contract.measurement import LatencySummary, Machine, Measurement
from packhorse_agent.contract.recipe import Fp16, Fp32, Recipe, StaticWi8Ai8, WeightOnlyWi8Afp32
from packhorse_agent.runtime.datatypes import Array
from packhorse_agent.runtime.golden import GoldenVectors
from packhorse_host.bundle.errors import BrokenOutputsError, GrownError, NotQuantizedError, QualityDropError
from packhorse_host.bundle.rules import Rule, broken_rules, notices, refuse

STATIC = StaticWi8Ai8()


def golden(host: Sequence[float] = (1.1, 2.1), fp32: Sequence[float] = (1.0, 2.0)) -> GoldenVectors:
    """Two vectors, one output."""

    def tensor(values: Sequence[float]) -> Array:
        return np.array(values, np.float32)[:, np.newaxis]

    return GoldenVectors({"x": tensor(fp32)}, {"y": tensor(fp32)}, {"y": tensor(host)})


def evidence(
    drop: float | None = 0.5,
    limit: float | None = None,
    integer: int = 20,
    high: float = 0.9,
    size_bytes: int = 100,
) -> Evidence:
    quality = None
    if drop is not None:
        quality = Quality(
            metric="top1_percent",
            dataset_sha256="0" * 64,
            samples=1000,
            fp32=90.0,
            quantized=90.0 - drop,
            drop_points=drop,
            drop_ci95_points=Interval(low=drop - 0.4, high=high),
            agreement_percent=99.0,
        )
    return Evidence(
        quality=quality,
        max_drop_points=limit,
        sqnr_db=30.0,
        size_fp32_bytes=400,
        size_bytes=size_bytes,
        integer_kernels=integer,
        compute_kernels=20,
        calibration_sha256=None,
        calibration_samples=0,
        source_sha256="0" * 64,
    )


def measurement(speedup: float, *, verified: bool = True, spread: float = 0.05) -> Measurement:
    latency = LatencySummary(latency_p50_us=100, latency_p95_us=110, latency_p99_us=120, inferences=100)
    machine = Machine(
        architecture="aarch64",
        cpu_model="",
        cpu_features=(),
        runtime="onnxruntime",
        runtime_version="1",
        threads=1,
    )
    return Measurement(
        manifest_sha256="0" * 64,
        machine=machine,
        fp32=latency,
        bundle=latency,
        speedup=speedup,
        speedup_ci95=Interval(low=speedup - spread, high=speedup + spread),
        verified=verified,
    )


@pytest.mark.parametrize(
    ("recipe", "found", "broken"),
    [
        (STATIC, evidence(), set()),
        (STATIC, evidence(integer=1), set()),
        (STATIC, evidence(integer=0), {Rule.NOT_QUANTIZED}),
        (Fp32(), evidence(integer=0), set()),
        (STATIC, evidence(drop=0.5, limit=0.5), set()),
        (STATIC, evidence(drop=0.51, limit=0.5), {Rule.MAX_DROP}),
        (STATIC, evidence(drop=-1.0, limit=0.0), set()),
        (STATIC, evidence(drop=50.0, limit=None), set()),
        (STATIC, evidence(drop=2.0, limit=1.0, integer=0), {Rule.NOT_QUANTIZED, Rule.MAX_DROP}),
        (STATIC, evidence(size_bytes=400 + 16 * 1024), set()),
        (STATIC, evidence(size_bytes=401 + 16 * 1024), {Rule.GROWTH}),
        (Fp16(), evidence(integer=0), set()),
        (Fp16(), evidence(integer=0, size_bytes=400), {Rule.NOT_QUANTIZED}),
        (WeightOnlyWi8Afp32(), evidence(integer=0, size_bytes=400), {Rule.NOT_QUANTIZED}),
    ],
)
def test_rules(recipe: Recipe, found: Evidence, broken: set[Rule]) -> None:
    assert set(broken_rules(recipe, found, golden())) == broken


@pytest.mark.parametrize(
    ("answers", "broken"),
    [
        (golden(), set()),
        (golden(host=(3.0, 3.0)), {Rule.CONSTANT_OUTPUT}),
        (golden(host=(3.0, 3.0), fp32=(1.0, 1.0)), set()),
        (golden(host=(1.0, math.nan)), {Rule.NOT_FINITE}),
        (golden(host=(math.inf, 1.0)), {Rule.NOT_FINITE}),
    ],
)
def test_answers_that_are_none(answers: GoldenVectors, broken: set[Rule]) -> None:
    """The same whatever goes in, or no number; where FP32 does better."""
    assert set(broken_rules(STATIC, evidence(), answers)) == broken


def test_nobody_can_allow_answers_that_are_no_numbers() -> None:
    broken = broken_rules(STATIC, evidence(), golden(host=(1.0, math.nan)))
    with pytest.raises(BrokenOutputsError, match="NaN or infinity in y; there is no override"):
        refuse("board", broken, set(Rule))


@pytest.mark.parametrize(
    ("found", "error", "override"),
    [
        (evidence(size_bytes=10**6), GrownError, "--allow growth"),
        (evidence(integer=0), NotQuantizedError, "--allow not-quantized"),
        (evidence(drop=2.0, limit=1.0), QualityDropError, "--allow max-drop"),
    ],
)
def test_a_refusal_names_its_override(found: Evidence, error: type[Exception], override: str) -> None:
    with pytest.raises(error, match=override) as caught:
        refuse("board", broken_rules(STATIC, found, golden()), ())
    assert caught.value.exit_code is ExitCode.REFUSED  # type: ignore[attr-defined]


def test_an_override_is_for_its_own_rule_only() -> None:
    broken = broken_rules(STATIC, evidence(drop=2.0, limit=1.0, integer=0), golden())
    refuse("board", broken, {Rule.NOT_QUANTIZED, Rule.MAX_DROP})
    with pytest.raises(QualityDropError):
        refuse("board", broken, {Rule.NOT_QUANTIZED})


@pytest.mark.parametrize(
    ("measured", "loud"),
    [
        (measurement(0.8), True),
        (measurement(0.8, verified=False), False),
        (measurement(0.98), False),
        (measurement(3.0), False),
    ],
)
def test_slower_than_fp32_is_said_where_it_is_known(measured: Measurement, loud: bool) -> None:
    """On the profile's own architecture, and beyond doubt."""
    said = notices(STATIC, evidence(), measured)
    assert any("SLOWER THAN FP32" in text for text in said) is loud


def test_fp32_is_not_slower_than_itself() -> None:
    assert notices(Fp32(), evidence(drop=0.0, integer=0), measurement(0.8)) == []


def test_kernels_that_stay_float_are_said() -> None:
    assert notices(STATIC, evidence(integer=13), measurement(2.0)) == [
        "7 of 20 compute kernels stay in floating point"
    ]


def test_a_budget_that_the_data_cannot_settle_is_said() -> None:
    (said,) = notices(STATIC, evidence(drop=0.5, limit=1.0, high=1.4), measurement(2.0))
    assert "as high as 1.40 points" in said
