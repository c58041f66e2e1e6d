"""The supervisor stays small: nothing heavy comes in with measuring and reporting."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "packhorse_agent.measure.power",
    "packhorse_agent.measure.thermal",
    "packhorse_agent.measure.usage",
    "packhorse_agent.telemetry.boot",
    "packhorse_agent.telemetry.reporter",
    "packhorse_agent.telemetry.windows",
)
HEAVY = ("numpy", "onnxruntime", "psutil", "paho", "typer", "rich", "tuf")


def test_nothing_heavy_is_imported() -> None:
    code = f"import sys, {', '.join(MODULES)}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
