"""A search as programs read it, and as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

from packhorse_agent.contract.base import WireDocument
from packhorse_agent.contract.manifest import Interval, Quality
from packhorse_agent.contract.measurement import LatencySummary
from packhorse_agent.contract.recipe import Recipe
from packhorse_host.bundle.words import UNKNOWN, interval_text, metric_text
from packhorse_host.quantize.search.bench import Point
from packhorse_host.quantize.search.labels import label
from packhorse_host.quantize.search.search import SearchResult


class TriedRecipe(WireDocument):
    """One candidate of a search."""

    recipe: Recipe
    text: str
    """The recipe in a few words."""
    on_front: bool
    """No other candidate beats it in accuracy, speed and size."""
    chosen: bool
    holds_budget: bool
    fault: str | None
    """Why it does not work for this model; the figures are missing then."""
    quality: Quality | None = None
    sqnr_db: float | None = None
    size_bytes: int | None = None
    integer_kernels: int | None = None
    compute_kernels: int | None = None
    fp32: LatencySummary | None = None
    bundle: LatencySummary | None = None
    speedup: float | None = None
    """None: not raced, since this machine has another architecture or the budget does not hold."""
    speedup_ci95: Interval | None = None


class LayerDamage(WireDocument):
    """What quantizing some nodes alone does to the outputs."""

    nodes: tuple[str, ...]
    noise_to_signal: float


class SearchReport(WireDocument):
    """How a recipe was found."""

    why: str
    out_of_time: bool
    tried: tuple[TriedRecipe, ...]
    """In order; the first is FP32."""
    sensitivities: tuple[LayerDamage, ...]
    """In the order in which a mixed plan leaves them in float; empty where none was needed."""


def report(result: SearchResult) -> SearchReport:
    """A search for programs."""
    front = result.front
    return SearchReport(
        why=result.why,
        out_of_time=result.out_of_time,
        tried=tuple(_tried(point, result.recipe, on_front=point in front) for point in result.tried),
        sensitivities=tuple(
            LayerDamage(nodes=each.nodes, noise_to_signal=each.damage) for each in result.sensitivities
        ),
    )


def headers(result: SearchResult) -> list[str]:
    """Of the table that `rows` fills."""
    quality = next((point.score.quality for point in result.tried if point.score), None)
    score = metric_text(quality) if quality else "SQNR dB"
    return ["CANDIDATE", score, "DROP (95 %)", "SIZE KiB", "INTEGER", "SPEED-UP HERE", ""]


def rows(tried: Sequence[TriedRecipe]) -> list[list[str]]:
    """One for each candidate."""
    return [_row(each) for each in tried]


def _tried(point: Point, chosen: Recipe, *, on_front: bool) -> TriedRecipe:
    about = {"recipe": point.recipe, "text": label(point.recipe), "on_front": on_front}
    if point.score is None:
        return TriedRecipe(**about, chosen=False, holds_budget=False, fault=point.fault)
    race = point.race
    return TriedRecipe(
        **about,
        chosen=point.recipe == chosen,
        holds_budget=point.holds,
        fault=None,
        quality=point.score.quality,
        sqnr_db=point.score.sqnr_db,
        size_bytes=point.size_bytes,
        integer_kernels=point.kernels.integer,
        compute_kernels=point.kernels.compute,
        fp32=race and race.fp32,
        bundle=race and race.bundle,
        speedup=race and race.speedup,
        speedup_ci95=race and race.speedup_ci95,
    )


def _row(each: TriedRecipe) -> list[str]:
    if each.fault is not None:
        return [each.text, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, f"does not work: {each.fault}"]
    quality, speedup = each.quality, each.speedup_ci95
    score = quality.quantized if quality else each.sqnr_db
    return [
        each.text,
        UNKNOWN if score is None else f"{score:.2f}",
        interval_text(quality.drop_points, quality.drop_ci95_points) if quality else UNKNOWN,
        f"{(each.size_bytes or 0) / 1024:.0f}",
        f"{each.integer_kernels} of {each.compute_kernels}",
        f"{each.speedup:.2f}x ({speedup.low:.2f} to {speedup.high:.2f})" if speedup else UNKNOWN,
        _remarks(each),
    ]


def _remarks(each: TriedRecipe) -> str:
    words = ["taken"] * each.chosen + ["front"] * each.on_front
    return ", ".join(words if each.holds_budget else [*words, "over budget"])
