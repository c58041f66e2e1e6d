"""What every benchmark prints alike: the machine, the versions, the figures."""

from __future__ import annotations

import argparse
import json
import os
import platform
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

PACKAGES = ("packhorse", "paho-mqtt", "pydantic", "tuf", "onnxruntime", "numpy")


def options(what: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    return parser


def spread(values: list[float], digits: int = 1) -> str:
    """Median and range of repeated measurements."""
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), median(values), max(values)))
    return f"{middle} ({low} to {high})"


def publish(figures: dict[str, Any], lines: list[tuple[str, str]], path: Path | None) -> None:
    """Print the lines under the machine's facts, and write all as JSON when asked."""
    facts = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{os.cpu_count()} × {_cpu_model()}, {platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }
    print(f"{facts['date']}, {facts['machine']}, Python {facts['python']}")
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        print(f"  {name:{width}}  {text}")
    if path is not None:
        path.write_text(json.dumps({**facts, **figures}, indent=2) + "\n")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
