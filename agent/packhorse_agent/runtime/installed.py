"""Which runtimes are installed, found without importing one."""

from __future__ import annotations

from importlib import metadata
from typing import Final

from packhorse_agent.contract.profile import RuntimeName

DISTRIBUTIONS: Final[dict[RuntimeName, tuple[str, ...]]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-qnn"),
    "litert": ("ai-edge-litert",),
    "tflite-runtime": ("tflite-runtime",),
    "executorch": ("executorch",),
    "pytorch-mobile": ("torch",),
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
}
"""Runtime → the distributions that bring it, any of which will do."""

HOW_TO_INSTALL: Final[dict[RuntimeName, str]] = {
    "tensorrt": "on JetPack 6 it comes with `apt install python3-libnvinfer`, and the worker's environment "
    "must see the system's packages (`python3 -m venv --system-site-packages`); elsewhere "
    "`pip install tensorrt`",
}
"""Where a package of that name from the registry is not the whole answer."""


def installed_runtimes() -> dict[str, str]:
    """Runtime → version, of those that this interpreter could import."""
    found: dict[str, str] = {}
    for runtime, distributions in DISTRIBUTIONS.items():
        versions = (_version(name) for name in distributions)
        version = next((version for version in versions if version), None)
        if version:
            found[runtime] = version
    return found


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
