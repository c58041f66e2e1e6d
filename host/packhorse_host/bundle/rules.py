"""What may refuse a bundle, and what is only said. Pure: evidence in, words out."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from packhorse_agent.contract.manifest import Evidence
from packhorse_agent.contract.measurement import Measurement
from packhorse_agent.contract.recipe import Recipe
from packhorse_host.bundle.errors import NotQuantizedError, QualityDropError


class Rule(str, Enum):
    """Rules that `--allow` overrides by name."""

    NOT_QUANTIZED = "not-quantized"
    MAX_DROP = "max-drop"


def broken_rules(recipe: Recipe, evidence: Evidence) -> dict[Rule, str]:
    """The rules that a bundle breaks, each with what is wrong."""
    broken: dict[Rule, str] = {}
    if recipe.name != "fp32" and evidence.integer_kernels == 0:
        broken[Rule.NOT_QUANTIZED] = (
            f"recipe {recipe.name} did not quantize the model: "
            f"none of its {evidence.compute_kernels} compute kernels is integer after fusion"
        )
    quality, limit = evidence.quality, evidence.max_drop_points
    if quality is not None and limit is not None and quality.drop_points > limit:
        interval = quality.drop_ci95_points
        broken[Rule.MAX_DROP] = (
            f"recipe {recipe.name} loses {quality.drop_points:.2f} points "
            f"(95 % interval {interval.low:.2f} to {interval.high:.2f}) of {quality.fp32:.2f} % top-1, "
            f"--max-drop allows {limit:g}"
        )
    return broken


def refuse(profile: str, broken: dict[Rule, str], allowed: Collection[Rule]) -> None:
    """Refuse a bundle that breaks a rule which nobody overrode.

    Raises:
        NotQuantizedError, QualityDropError: the text names the override.
    """
    for rule, text in broken.items():
        if rule not in allowed:
            kind = NotQuantizedError if rule is Rule.NOT_QUANTIZED else QualityDropError
            raise kind(f"{profile}: {text}; --allow {rule.value} packs it all the same")


def notices(recipe: Recipe, evidence: Evidence, measurement: Measurement) -> list[str]:
    """What a person should know about a bundle that is packed."""
    said = []
    floats = evidence.compute_kernels - evidence.integer_kernels
    if recipe.name != "fp32" and floats:
        said.append(f"{floats} of {evidence.compute_kernels} compute kernels stay in floating point")
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
