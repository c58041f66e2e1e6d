"""Our INT8 model against those of the plain tools, on the processor of this machine, side by side in one run.

Every tool quantizes the same FP32 file with the same calibration data, in a process of its own in another
environment (`speed_tools.py`). What comes out is timed here, by the device's own runtime module, each against
ours in pairs that alternate, with both opened anew for every round (`packhorse_host.evaluate.latency`). Each
ONNX file runs a second time with `session.x64quantprecision` off, where products of 8 bits may saturate.

A fast wrong answer is no winner: a tool counts when its SQNR against FP32, on samples that did not calibrate,
is at most 3 dB below ours. Ours stands when, against each that counts, the lower 95 % bound of the ratio of
latencies (theirs by ours) is at least 0.95. A short race shows which of them come near; those are raced
again, long, and only the long race is told.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime

from benchmarks.calibration import Images
from benchmarks.mobilenet import mobilenet_v2
from benchmarks.report import options, publish
from packhorse_agent.contract.manifest import RuntimeRequirement
from packhorse_agent.contract.recipe import StaticWi8Ai8
from packhorse_agent.profiles import builtin_profiles
from packhorse_agent.runtime.base import Session
from packhorse_agent.runtime.datatypes import Array
from packhorse_agent.runtime.golden import sqnr_db
from packhorse_agent.runtime.onnxruntime_cpu import CPU_PROVIDER, OnnxRuntimeSession, session_options
from packhorse_host.convert.building import build
from packhorse_host.convert.convert import float_model
from packhorse_host.convert.environments import ENVIRONMENTS
from packhorse_host.convert.sources import recognise
from packhorse_host.evaluate.latency import Race, race
from packhorse_host.evaluate.samples import ArraySamples
from packhorse_host.quantize import emit_onnxruntime
from packhorse_host.quantize.graph import Architecture, count_kernels
from packhorse_host.quantize.recipes import choose_recipe
from packhorse_host.quantize.search.labels import label
from packhorse_host.quantize.source import read_source

HERE: Final = Path(__file__).parent
REPOSITORY: Final = HERE.parents[1]
LOCK: Final = HERE / "locks" / "speed-cp311.txt"
ENVIRONMENT_BYTES: Final = 3_000_000_000
PROFILE: Final = "generic-x86_64"
SETTINGS: Final = (
    "onnxruntime-u8s8", "onnxruntime-u8s8-reduced", "onnxruntime-s8s8", "onnxruntime-u8u8",
    "nncf", "nncf-by-hand", "nncf-by-hand-overflow-fix", "aimet",
)  # fmt: skip
"""As `speed_tools.py` knows them."""
SQNR_SLACK_DB: Final = 3.0
NEAR: Final = 1.25
"""A tool that takes longer than ours by this after a short race is not raced again."""
SHORT_SECONDS: Final = 0.1
RATIO_MIN: Final = 0.95
HELD_OUT: Final = 32
"""Samples that SQNR is taken on where there are no labels."""

Open = Callable[[int], Session]
"""Threads → a session of its own."""


@dataclass(frozen=True)
class Case:
    """A network with its data."""

    name: str
    model: Path
    calibration: ArraySamples
    held_out: Array
    labels: Array | None = None


@dataclass(frozen=True)
class Entry:
    """A model file and how it is opened."""

    name: str
    open: Open
    kernels: str
    """Integer kernels by all that multiply, where they can be counted."""


@dataclass(frozen=True)
class Answer:
    """How right an entry is."""

    sqnr_db: float
    correct_percent: float | None


def main() -> None:
    parser = options("our INT8 against the plain tools'")
    parser.add_argument("--seconds", type=float, default=12.0, help="for a long race (12)")
    parser.add_argument("--calibration", type=int, default=32, help="images for MobileNetV2 (32)")
    parser.add_argument("--only", choices=("mobilenet-v2", "fashion-mnist"), help="one network")
    given = parser.parse_args()
    onnxruntime.set_default_logger_severity(3)  # it warns when the one setting is switched off
    python = tools_python()
    lines: list[tuple[str, str]] = [("load before", load())]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="packhorse-bench-") as folder:
        for case in cases(Path(folder), given.calibration):
            if given.only in (None, case.name):
                found, figures[case.name] = compare(case, python, given.seconds)
                lines += found
    lines.append(("load after", load()))
    figures["locked"] = [line.split(" ")[0] for line in LOCK.read_text().splitlines() if "==" in line]
    publish(figures, lines, given.json)


def load() -> str:
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def tools_python() -> Path:
    """The interpreter of the throw-away environment, built from the lock file when it has changed."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    folder = REPOSITORY / f".venv-speed-tools-{digest}"
    if not folder.exists():
        build(folder, LOCK, ("aimet_onnx", "nncf", "onnxruntime"), ENVIRONMENT_BYTES, print)
    return folder / "bin" / "python"


def cases(folder: Path, samples: int) -> Iterator[Case]:
    path, images = folder / "mobilenet-v2.onnx", Images(samples + HELD_OUT)
    onnx.save(mobilenet_v2(), path)
    arrays = images.take(range(images.count)).arrays["image"]
    yield Case("mobilenet-v2", path, ArraySamples({"image": arrays[:samples]}), arrays[samples:])
    sample = REPOSITORY / "samples" / "fashion-mnist"
    with np.load(sample / "calibration.npz") as known, np.load(sample / "evaluation.npz") as unknown:
        yield Case(
            "fashion-mnist", sample / "model.onnx",
            ArraySamples({"image": known["image"]}), unknown["image"], unknown["labels"],
        )  # fmt: skip


def compare(case: Case, python: Path, seconds: float) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="packhorse-bench-") as folder:
        fp32 = _onnx_entry("FP32", case.model)
        ours = _ours(case, Path(folder))
        others = [fp32, *_plain(case, python, Path(folder)), *_litert(case, Path(folder))]
        reference = _outputs(fp32, case)
        answers = {entry.name: _answer(entry, case, reference) for entry in [ours, *others]}
        threads = sorted({builtin_profiles()[PROFILE].threads, 1})
        limit = answers[ours.name].sqnr_db - SQNR_SLACK_DB
        counting = [e.name for e in others if e is not fp32 and answers[e.name].sqnr_db >= limit]
        races = {
            entry.name: {
                count: _raced(entry, ours, count, seconds if entry.name in counting else 0.0)
                for count in threads
            }
            for entry in others
        }
    lines = [(f"{case.name}: {ours.name}", _told(answers[ours.name], ours.kernels))]
    for entry in others:
        words = _told(answers[entry.name], entry.kernels), *_ratios(races[entry.name])
        remark = () if entry.name in [*counting, fp32.name] else ("too far from FP32 to count",)
        lines.append((f"{case.name}: {entry.name}", "; ".join([*words, *remark])))
    lines += [_verdict(case, races, counting, count) for count in threads]
    return lines, _figures(answers, races, counting)


def _ours(case: Case, folder: Path) -> Entry:
    """By the recipe that `packhorse pack` begins with for the profile, when it is not told another."""
    recipe = choose_recipe("auto", builtin_profiles()[PROFILE])
    path = folder / "ours.onnx"
    path.write_bytes(emit_onnxruntime.emit(read_source(case.model), recipe, case.calibration))
    return _onnx_entry(f"Packhorse ({label(recipe)})", path)


def _plain(case: Case, python: Path, folder: Path) -> Iterator[Entry]:
    data = folder / "calibration.npz"
    np.savez(data, **dict[str, Any](case.calibration.arrays))
    for setting in SETTINGS:
        path = folder / f"{setting}.onnx"
        print(f"{case.name}: {setting}", flush=True)
        subprocess.run(
            [python, "-I", HERE / "speed_tools.py", setting, case.model, data, path],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        )  # fmt: skip
        yield _onnx_entry(f"{setting}, exact", path)
        yield _onnx_entry(f"{setting}, may saturate", path, exact=False)


def _onnx_entry(name: str, path: Path, *, exact: bool = True) -> Entry:
    counts = count_kernels(path.read_bytes(), Architecture.X86_64)
    return Entry(name, partial(_open_onnx, path, exact), f"{counts.integer}/{counts.compute} integer")


def _open_onnx(path: Path, exact: bool, threads: int) -> Session:
    settings = session_options(threads)
    if not exact:
        settings.add_session_config_entry("session.x64quantprecision", "0")
    return OnnxRuntimeSession(
        onnxruntime.InferenceSession(str(path), settings, providers=[CPU_PROVIDER]), notes=()
    )


def _litert(case: Case, folder: Path) -> Iterator[Entry]:
    """ai-edge-quantizer on LiteRT, on what our converter makes of the same network."""
    if not ENVIRONMENTS["torch"].is_built:
        print(f"{case.name}: without LiteRT (scripts/walk_conversions builds the tool environment for it)")
        return
    from packhorse_host.quantize import emit_litert

    source = float_model(recognise(case.model), "litert", print)
    path = folder / "model.tflite"
    path.write_bytes(emit_litert.emit(source, StaticWi8Ai8(), case.calibration))
    yield Entry("ai-edge-quantizer on LiteRT", partial(_open_litert, path), "")


def _open_litert(path: Path, threads: int) -> Session:
    from packhorse_agent.runtime import litert

    return litert.open_session(
        path, RuntimeRequirement(name="litert", minimum_version="2.1", threads=threads)
    )


def _outputs(entry: Entry, case: Case) -> Array:
    session = entry.open(1)
    (spec,) = session.inputs
    rows = (session.run({spec.name: case.held_out[index : index + 1]}) for index in range(len(case.held_out)))
    return np.concatenate([next(iter(row.values())) for row in rows])


def _answer(entry: Entry, case: Case, reference: Array) -> Answer:
    outputs = _outputs(entry, case)
    decibels = sqnr_db(reference, outputs)
    correct = None if case.labels is None else 100 * float((outputs.argmax(1) == case.labels).mean())
    return Answer(float("inf") if decibels is None else round(decibels, 2), correct)


def _raced(entry: Entry, ours: Entry, threads: int, seconds: float) -> Race:
    """A short race, or a long one of `seconds` where that shows that it is close."""
    short = _race(entry, ours, threads, SHORT_SECONDS)
    return short if short.speedup >= NEAR or not seconds else _race(entry, ours, threads, seconds)


def _race(entry: Entry, ours: Entry, threads: int, seconds: float) -> Race:
    """`speedup` is the entry's latency by ours: above 1 where ours is faster."""
    feed = entry.open(1).inputs[0]
    image = np.random.default_rng(0).standard_normal((1, *feed.shape[1:]), np.float32)

    def run(session: Session) -> Callable[[], object]:
        (spec,) = session.inputs
        return lambda: session.run({spec.name: image})

    return race(lambda: (run(entry.open(threads)), run(ours.open(threads))), budget_s=seconds)


def _told(answer: Answer, kernels: str) -> str:
    words = [f"SQNR {answer.sqnr_db:.1f} dB"]
    words += [] if answer.correct_percent is None else [f"top-1 {answer.correct_percent:.2f} %"]
    return ", ".join([*words, *([kernels] if kernels else [])])


def _ratios(found: Mapping[int, Race]) -> list[str]:
    return [
        f"{threads} thread{'s' * (threads > 1)} {each.speedup:.2f} "
        f"({each.speedup_ci95.low:.2f} to {each.speedup_ci95.high:.2f}), "
        f"{each.fp32.latency_p50_us / 1000:.2f} to {each.bundle.latency_p50_us / 1000:.2f} ms"
        for threads, each in found.items()
    ]


def _verdict(
    case: Case, races: Mapping[str, Mapping[int, Race]], counting: Sequence[str], threads: int
) -> tuple[str, str]:
    lowest = min(counting, key=lambda name: races[name][threads].speedup_ci95.low)
    low = races[lowest][threads].speedup_ci95.low
    word = "met" if low >= RATIO_MIN else "not shown"
    return (
        f"{case.name}: lowest bound, {threads} thread{'s' * (threads > 1)}",
        f"{low:.2f} against {lowest} (aim: {RATIO_MIN}): {word}",
    )


def _figures(
    answers: Mapping[str, Answer], races: Mapping[str, Mapping[int, Race]], counting: Sequence[str]
) -> dict[str, Any]:
    return {
        "answers": {name: asdict(answer) for name, answer in answers.items()},
        "counting": list(counting),
        "races": {
            name: {
                threads: {
                    "ratio": each.speedup,
                    "ratio_ci95": each.speedup_ci95.model_dump(),
                    "theirs_p50_us": each.fp32.latency_p50_us,
                    "ours_p50_us": each.bundle.latency_p50_us,
                }
                for threads, each in found.items()
            }
            for name, found in races.items()
        },
    }


if __name__ == "__main__":
    main()
