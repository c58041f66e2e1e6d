"""However many samples there are, calibration takes the same memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from benchmarks.mobilenet import mobilenet_v2

ROOT = Path(__file__).parents[4]

CHILD = """
import sys
from pathlib import Path
from benchmarks.calibration import Images, peak_mib
from packhorse_agent.contract.recipe import CalibrationMethod
from packhorse_host.quantize.calibrate.collect import collect_ranges
from packhorse_host.quantize.calibrate.graph import range_tensors
from packhorse_host.quantize.emit_onnxruntime import CALIBRATION_BATCH, INTEGER_OPERATORS
from packhorse_host.quantize.prepare import prepare
from packhorse_host.quantize.source import read_source

path, method, samples, side = sys.argv[1:]
model = prepare(read_source(Path(path)))
tensors = range_tensors(model, INTEGER_OPERATORS, ())
images = Images(int(samples), int(side))
collect_ranges(model, tensors, images, CalibrationMethod(method), 99.99, batch=CALIBRATION_BATCH)
print(peak_mib())
"""


def peak_mib(folder: Path, method: str, samples: int, side: int) -> float:
    """Of a process that does nothing else, on MobileNetV2."""
    model = folder / f"mobilenet-{side}.onnx"
    onnx.save(mobilenet_v2(side=side), model)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(model), method, str(samples), str(side)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT / "scripts"), *sys.path])),
    )
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_memory_does_not_grow_with_the_samples(tmp_path: Path, method: str) -> None:
    """From 16 to 512, at most by a quarter. ONNX Runtime's percentile takes seven times as much for 128."""
    few, many = (peak_mib(tmp_path, method, samples, side=64) for samples in (16, 512))
    assert many <= 1.25 * few


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_the_whole_process_stays_small(tmp_path: Path, method: str) -> None:
    """At the size of a real model's images; what is observed differs by method, not by sample."""
    assert peak_mib(tmp_path, method, samples=20, side=224) <= 450
