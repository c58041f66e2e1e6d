"""What may refuse a bundle, and what is only said. Pure: evidence in, words out."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import Final

from packhorse_agent.contract.manifest import DataFreeCheck, Evidence
from packhorse_agent.contract.measurement import Measurement
from packhorse_agent.contract.recipe import Recipe
from packhorse_agent.runtime.golden import GoldenVectors
from packhorse_host.bundle.errors import (
    BrokenOutputsError,
    DataFreeError,
    GrownError,
    NotQuantizedError,
    QualityDropError,
)
from packhorse_host.bundle.outputs import constant_outputs, outputs_not_finite
from packhorse_host.bundle.words import interval_text, metric_text
from packhorse_host.errors import RefusedError
from packhorse_host.quantize.search.policy import is_quantized, outgrows, promises_integers


class Rule(str, Enum):
    """Rules that a bundle is held to."""

    NOT_QUANTIZED = "not-quantized"
    GROWTH = "growth"
    NOT_FINITE = "not-finite"
    CONSTANT_OUTPUT = "constant-output"
    MAX_DROP = "max-drop"
    DATA_FREE = "data-free"


AGREEMENT_MIN_PERCENT: Final = {"evaluation": 95.0, "synthesized": 90.0}
"""Decisions that a model calibrated without data must share with FP32. About half of those that differ were
right before, so that 95 % lose some 2 points: the sample model shares 99.3 %, and 88.5 % where its inputs'
scale was made up wrongly. On inputs of nothing the float model is less sure: there it shares 95.3 %, and 32 %
where ranges are useless."""
SQNR_MIN_DB: Final = 10.0
"""The same where outputs are no decisions: noise of a tenth of the signal's power."""

OVERRIDABLE: Final = tuple(rule for rule in Rule if rule is not Rule.NOT_FINITE)
"""Rules that `--allow` overrides by name; a model that answers NaN is of use to nobody."""

_ERRORS: Final[dict[Rule, type[RefusedError]]] = {
    Rule.NOT_QUANTIZED: NotQuantizedError,
    Rule.GROWTH: GrownError,
    Rule.NOT_FINITE: BrokenOutputsError,
    Rule.CONSTANT_OUTPUT: BrokenOutputsError,
    Rule.MAX_DROP: QualityDropError,
    Rule.DATA_FREE: DataFreeError,
}


def broken_rules(recipe: Recipe, evidence: Evidence, golden: GoldenVectors) -> dict[Rule, str]:
    """The rules that a bundle breaks, each with what is wrong."""
    found = {
        Rule.NOT_QUANTIZED: _not_quantized(recipe, evidence),
        Rule.GROWTH: _grown(recipe, evidence),
        Rule.NOT_FINITE: _listed("NaN or infinity in", outputs_not_finite(golden.host)),
        Rule.CONSTANT_OUTPUT: _listed(
            "one answer to whatever goes in, where fp32 tells inputs apart, in",
            constant_outputs(golden.fp32, golden.host),
        ),
        Rule.MAX_DROP: _dropped(evidence),
        Rule.DATA_FREE: _strayed(evidence),
    }
    return {rule: f"recipe {recipe.name} {text}" for rule, text in found.items() if text}


def refuse(profile: str, broken: dict[Rule, str], allowed: Collection[Rule]) -> None:
    """Refuse a bundle that breaks a rule which nobody overrode.

    Raises:
        NotQuantizedError, GrownError, BrokenOutputsError, QualityDropError, DataFreeError: the text names
            the override.
    """
    for rule, text in broken.items():
        if rule not in allowed or rule not in OVERRIDABLE:
            override = f"--allow {rule.value} packs it all the same" if rule in OVERRIDABLE else _NO_OVERRIDE
            raise _ERRORS[rule](f"{profile}: {text}; {override}")


def notices(recipe: Recipe, evidence: Evidence, measurement: Measurement) -> list[str]:
    """What a person should know about a bundle that is packed."""
    said = []
    floats = evidence.compute_kernels - evidence.integer_kernels
    if promises_integers(recipe) and floats:
        said.append(f"{floats} of {evidence.compute_kernels} compute kernels stay in floating point")
    if evidence.data_free is not None:
        said.append(f"calibrated on made-up inputs: {_followed(evidence.data_free)}")
    quality, limit = evidence.quality, evidence.max_drop_points
    if quality is not None and limit is not None:
        high = quality.drop_ci95_points.high
        if quality.drop_points <= limit < high:
            said.append(
                f"the drop may be as high as {high:.2f} points (95 % interval), "
                f"above --max-drop {limit:g}: {quality.samples} samples cannot tell"
            )
    if measurement.verified and measurement.speedup_ci95.high < 1 and recipe.name != "fp32":
        said.append(
            f"SLOWER THAN FP32 on the profile's own architecture: "
            f"{measurement.bundle.latency_p50_us:.0f} us against {measurement.fp32.latency_p50_us:.0f} us "
            f"(speed-up {measurement.speedup:.2f}); consider --recipe fp32"
        )
    return said


_NO_OVERRIDE: Final = "there is no override; choose another recipe"


def _not_quantized(recipe: Recipe, evidence: Evidence) -> str:
    if is_quantized(recipe, evidence.integer_kernels, evidence.size_bytes, evidence.size_fp32_bytes):
        return ""
    if promises_integers(recipe):
        kernels = evidence.compute_kernels
        return f"did not quantize the model: none of its {kernels} compute kernels is integer after fusion"
    return f"did not quantize the model: it has {evidence.size_bytes} bytes, fp32 {evidence.size_fp32_bytes}"


def _grown(recipe: Recipe, evidence: Evidence) -> str:
    if recipe.name == "fp32" or not outgrows(evidence.size_bytes, evidence.size_fp32_bytes):
        return ""
    return f"made the model larger: {evidence.size_fp32_bytes} to {evidence.size_bytes} bytes"


def _listed(what: str, names: Collection[str]) -> str:
    return f"gives {what} {', '.join(names)}" if names else ""


def _strayed(evidence: Evidence) -> str:
    check = evidence.data_free
    if check is None:
        return ""
    if check.agreement_percent is None:
        far = check.sqnr_db is not None and check.sqnr_db < SQNR_MIN_DB
        least = f"{SQNR_MIN_DB:g} dB"
    else:
        far = check.agreement_percent < AGREEMENT_MIN_PERCENT[check.inputs]
        least = f"{AGREEMENT_MIN_PERCENT[check.inputs]:g} %"
    if not far:
        return ""
    return f"was calibrated without data and strays from fp32: {_followed(check)}, {least} are needed"


def _followed(check: DataFreeCheck) -> str:
    where = f"{check.samples} {'evaluation samples' if check.inputs == 'evaluation' else 'made-up inputs'}"
    if check.agreement_percent is not None:
        return f"it decides as fp32 on {check.agreement_percent:.1f} % of {where}"
    noise = "no noise" if check.sqnr_db is None else f"{check.sqnr_db:.1f} dB"
    return f"{noise} against fp32 on {where}"


def _dropped(evidence: Evidence) -> str:
    quality, limit = evidence.quality, evidence.max_drop_points
    if quality is None or limit is None or quality.drop_points <= limit:
        return ""
    interval = quality.drop_ci95_points
    return (
        f"loses {interval_text(quality.drop_points, interval)} points of {quality.fp32:.2f} "
        f"{metric_text(quality)}, 95 % interval in brackets; "
        f"--max-drop allows {limit:g}"
    )
