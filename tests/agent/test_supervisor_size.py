"""The supervisor stays small: what it imports, with everything that its own imports bring along."""

from __future__ import annotations

import subprocess
import sys

TOO_BIG = (
    "argparse",
    "cryptography.hazmat.primitives.serialization",
    "httptools",
    "numpy",
    "onnxruntime",
    "rich",
    "securesystemslib",
    "tuf",
    "typer",
    "urllib3",
)


def test_the_supervisor_brings_no_runtime_python_tuf_or_command_line_framework() -> None:
    listing = f"[name for name in {TOO_BIG!r} if name in sys.modules]"
    code = f"import sys, packhorse_agent.service; print({listing})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
