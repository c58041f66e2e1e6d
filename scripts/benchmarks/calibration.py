"""Time and memory of static quantization: our calibrators against ONNX Runtime's, each in its own process.

The model has MobileNetV2's shapes and made-up weights; the images are made up too, one by one, the same for
all.
Time is that of quantizing (without imports and reading the model), memory the peak of the whole process.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from benchmarks.mobilenet import SIDE, mobilenet_v2
from benchmarks.report import options, publish, spread

OWN: Final = ("minmax", "percentile", "entropy", "mse")
ONNX_RUNTIME: Final = ("minmax", "percentile", "entropy")
HEAVY_SAMPLES: Final = 32
"""ONNX Runtime keeps every tensor of every sample for these two: 128 take 4 GiB."""


@dataclass(frozen=True)
class Cost:
    """Of one run."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Images:
    """Made-up images, made when they are asked for; a source of samples."""

    count: int
    side: int = SIDE
    sha256: str = "0" * 64

    def take(self, indexes: Sequence[int]) -> Any:
        from packhorse_host.evaluate.samples import ArraySamples

        return ArraySamples({"image": self._images(indexes)})

    def batches(self, size: int, first: int = 0, last: int | None = None) -> Iterator[dict[str, Any]]:
        stop = min(self.count, self.count if last is None else last)
        for start in range(first, stop, size):
            yield {"image": self._images([min(index, stop - 1) for index in range(start, start + size)])}

    def _images(self, indexes: Sequence[int]) -> Any:
        streams = (np.random.default_rng(index) for index in indexes)
        return np.stack([stream.standard_normal((3, self.side, self.side), np.float32) for stream in streams])


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = options("calibration against ONNX Runtime's")
    parser.add_argument("--samples", type=int, default=256, help="images (256)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the comparison of minmax (3)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="packhorse-bench-") as folder:
        model = Path(folder) / "model.onnx"
        onnx.save(mobilenet_v2(), model)
        lines, figures = compare(model, given.samples, given.rounds)
        publish(figures, lines, given.json)


def compare(model: Path, samples: int, rounds: int) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    pairs = []
    for turn in range(rounds):  # who goes first alternates
        order = ("own", "onnxruntime") if turn % 2 == 0 else ("onnxruntime", "own")
        costs = {tool: measure(tool, "minmax", samples, model) for tool in order}
        pairs.append((costs["own"], costs["onnxruntime"]))
    ratio = [own.seconds / other.seconds for own, other in pairs]
    runs = {f"ours, minmax, {samples} images": [own for own, _ in pairs]}
    runs[f"ONNX Runtime, minmax, {samples} images"] = [other for _, other in pairs]
    runs[f"all of pack, minmax, {samples} images"] = [measure("pack", "minmax", samples, model)]
    for method in OWN[1:]:
        runs[f"ours, {method}, {samples} images"] = [measure("own", method, samples, model)]
    for method in ONNX_RUNTIME[1:]:
        few = min(samples, HEAVY_SAMPLES)
        runs[f"ONNX Runtime, {method}, {few} images"] = [measure("onnxruntime", method, few, model)]
    lines = [(name, line(costs)) for name, costs in runs.items()]
    lines.append(("time of ours by ONNX Runtime's, minmax", spread(ratio, 2)))
    figures = {name: [asdict(cost) for cost in costs] for name, costs in runs.items()}
    return lines, {"runs": figures, "ratio_minmax": ratio}


def line(costs: Sequence[Cost]) -> str:
    seconds, cpu, peak = (
        spread([getattr(cost, key) for cost in costs], digits) if len(costs) > 1
        else f"{getattr(costs[0], key):.{digits}f}"
        for key, digits in (("seconds", 1), ("cpu_seconds", 1), ("peak_mib", 0))
    )  # fmt: skip
    return f"{seconds} s, of CPU {cpu} s, {peak} MiB"


def measure(tool: str, method: str, samples: int, model: Path) -> Cost:
    command = [
        sys.executable,
        "-m",
        "benchmarks.calibration",
        "--child",
        tool,
        method,
        str(samples),
        str(model),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def child(tool: str, method: str, samples: str, model: str) -> None:
    tools = {"own": _own, "onnxruntime": _onnxruntime, "pack": _pack}
    quantize = tools[tool](method, Images(int(samples)), Path(model))
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    quantize()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps(asdict(Cost(round(seconds, 3), round(cpu, 3), peak_mib()))))


def peak_mib() -> float:
    """The most memory that this process has had (getrusage's figure has the parent's in it)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return round(int(kib) / 1024, 1)


def _own(method: str, images: Images, model: Path) -> Callable[[], object]:
    from packhorse_agent.contract.recipe import CalibrationMethod, StaticWi8Ai8
    from packhorse_host.quantize.emit_onnxruntime import emit
    from packhorse_host.quantize.source import read_source

    source = read_source(model)
    recipe = StaticWi8Ai8(calibration=CalibrationMethod(method), activation_type="uint8")
    return lambda: emit(source, recipe, images)


def _pack(method: str, images: Images, model: Path) -> Callable[[], object]:
    """All that `packhorse pack` does: golden vectors, the race against FP32 and the bundle too."""
    from packhorse_agent.profiles import builtin_profiles
    from packhorse_host.bundle.pack import pack
    from packhorse_host.bundle.request import PackRequest

    data = model.with_name("images.npz")
    np.savez(data, **images.take(range(images.count)).arrays)
    request = PackRequest(
        model=model,
        name="mobilenet",
        version="1.0.0",
        profiles=[builtin_profiles()["generic-x86_64"]],
        recipe="static_wi8_ai8",
        calibration=data,
        output=model.with_name("bundles"),
    )
    return lambda: pack(request, lambda _: None)


def _onnxruntime(method: str, images: Images, model: Path) -> Callable[[], object]:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = images.batches(1)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    methods = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
    return lambda: quantize_static(
        model,
        model.with_name("quantized.onnx"),
        Reader(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[methods[method]],
    )


if __name__ == "__main__":
    main()
