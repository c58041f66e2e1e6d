"""The Pareto front of a search as a PNG, drawn with Pillow."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

from packhorse_host.bundle.search_report import SearchReport, TriedRecipe
from packhorse_host.bundle.words import metric_text
from packhorse_host.errors import ConfigError

WIDTH, PANEL_HEIGHT, MARGIN, LINE = 1200, 420, 70, 20
_INK, _GREY, _PAPER, _TAKEN, _FRONT = "#222222", "#999999", "#ffffff", "#c0392b", "#1f77b4"
_RADIUS: Final = 6

Value = Callable[[TriedRecipe], float | None]


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels."""

    low: float
    high: float
    first: int
    last: int

    def pixel(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self) -> list[float]:
        """Round numbers, three to eight of them."""
        rough = (self.high - self.low) / 5
        step = 10 ** math.floor(math.log10(rough))
        step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough)
        start = math.ceil(self.low / step)
        return [index * step for index in range(start, math.floor(self.high / step) + 1)]


def check_front_file(path: Path) -> None:
    """Find out before a long search whether its front can be drawn and written.

    Raises:
        ConfigError: not a `.png`, or in a folder that is not there.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--front {path}: the front is drawn as PNG; give a name that ends in .png")
    if not path.parent.is_dir():
        raise ConfigError(f"--front {path}: there is no folder {path.parent}")


def draw_fronts(searches: Sequence[tuple[str, SearchReport]]) -> bytes:
    """PNG: for each search its title, accuracy over size and, where raced, over speed, and a legend."""
    heights = [PANEL_HEIGHT + LINE * (len(search.tried) + 2) for _, search in searches]
    image = Image.new("RGB", (WIDTH, sum(heights)), _PAPER)
    canvas = ImageDraw.Draw(image)
    canvas.font = ImageFont.load_default(14)
    top = 0
    for (title, search), height in zip(searches, heights, strict=True):
        _draw_search(canvas, title, search, top)
        top += height
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _draw_search(canvas: Any, title: str, search: SearchReport, top: int) -> None:
    canvas.text((MARGIN, top + 8), title, fill=_INK)
    working = [each for each in search.tried if each.fault is None]
    raced = any(each.speedup is not None for each in working)
    panels: list[tuple[str, Value]] = [("size in KiB", _size_kib)]
    panels += [("speed-up over fp32, on this machine", _speedup)] * raced
    width = WIDTH // len(panels)
    for index, (name, value) in enumerate(panels):
        _draw_panel(canvas, search.tried, (name, value), (index * width, top + LINE, width))
    for number, each in enumerate(search.tried):
        line = f"{number}  {each.text}{'' if each.holds_budget else '  (over budget)'}"
        position = MARGIN, top + PANEL_HEIGHT + LINE + number * LINE
        canvas.text(position, line, fill=_colour(each) if each.fault is None else _GREY)


def _draw_panel(
    canvas: Any, tried: Sequence[TriedRecipe], over: tuple[str, Value], place: tuple[int, int, int]
) -> None:
    left, top, width = place
    name, value = over
    best = max((score for each in tried if (score := _score(each)) is not None), default=0.0)
    shown = [
        (number, each, x, best if (score := _score(each)) is None else score)
        for number, each in enumerate(tried)
        if each.fault is None and (x := value(each)) is not None
    ]
    right, bottom = left + width - MARGIN // 2, top + PANEL_HEIGHT - MARGIN
    across = _axis([x for _, _, x, _ in shown], left + MARGIN, right)
    up = _axis([y for _, _, _, y in shown], bottom, top + LINE)
    canvas.rectangle((left + MARGIN, top + LINE, right, bottom), outline=_GREY)
    for tick in across.ticks():
        canvas.text((across.pixel(tick), bottom + 6), f"{tick:g}", fill=_INK, anchor="ma")
    for tick in up.ticks():
        canvas.text((left + MARGIN - 6, up.pixel(tick)), f"{tick:g}", fill=_INK, anchor="rm")
    canvas.text(((left + MARGIN + right) / 2, bottom + 26), name, fill=_INK, anchor="ma")
    canvas.text((left + MARGIN + 4, top + LINE + 4), _score_name(tried), fill=_GREY)
    for number, each, x, y in shown:
        _draw_point(canvas, each, str(number), (across.pixel(x), up.pixel(y)))


def _draw_point(canvas: Any, each: TriedRecipe, number: str, place: tuple[float, float]) -> None:
    x, y = place
    box = (x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS)
    canvas.ellipse(box, outline=_colour(each), fill=_colour(each) if each.on_front else None, width=2)
    canvas.text((x + _RADIUS + 3, y - _RADIUS), number, fill=_colour(each), anchor="lm")


def _axis(values: Sequence[float], first: int, last: int) -> _Axis:
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or max(1.0, abs(high)) * 0.1
    return _Axis(low - room, high + room, first, last)


def _colour(each: TriedRecipe) -> str:
    if each.chosen:
        return _TAKEN
    return _FRONT if each.holds_budget else _GREY


def _size_kib(each: TriedRecipe) -> float | None:
    return None if each.size_bytes is None else each.size_bytes / 1024


def _speedup(each: TriedRecipe) -> float | None:
    return 1.0 if each.recipe.name == "fp32" else each.speedup


def _score(each: TriedRecipe) -> float | None:
    """FP32 has no SQNR: it is drawn beside the best."""
    return each.quality.quantized if each.quality else each.sqnr_db


def _score_name(tried: Sequence[TriedRecipe]) -> str:
    quality = next((each.quality for each in tried if each.quality), None)
    return metric_text(quality) if quality else "SQNR in dB (fp32: no noise)"
