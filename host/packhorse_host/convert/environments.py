"""Tool environments: heavy converters whose pins fight, each in a virtual environment of its own.

An environment is built once per machine, in the user's cache folder, from the lock file beside this module,
and called as a process: one JSON document in, one out. The folder's name holds the digest of the lock, so a
new version of Packhorse builds a new one and an old one keeps working.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from packhorse_host.convert.building import PYTHON_VERSION, Progress, build
from packhorse_host.convert.errors import ConversionFailedError, ToolEnvironmentError, ToolFailedError
from packhorse_host.convert.processes import run_program

EnvironmentName = Literal["tensorflow", "torch", "tflite-runtime"]

CALL_TIMEOUT_S: Final = 1800.0
ANSWER_MAX_BYTES: Final = 1024**2

_HERE: Final = Path(__file__).parent
_LAST_WORDS: Final = 800
_TOOL_VARIABLES: Final = MappingProxyType(
    {
        "CUDA_VISIBLE_DEVICES": "-1",  # conversion is for the CPU, also where there is a GPU
        "HF_HUB_OFFLINE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
)


@dataclass(frozen=True)
class ToolEnvironment:
    """One tool environment, built or not."""

    name: EnvironmentName
    modules: tuple[str, ...]
    """Import names that must work once it is built."""
    tools: tuple[str, ...]
    """Distributions that it is built for."""
    disk_bytes: int
    """What it takes on the disk."""

    @property
    def lock(self) -> Path:
        """Its pinned requirements."""
        return _HERE / "locks" / f"{self.name}-cp{PYTHON_VERSION.replace('.', '')}.txt"

    @property
    def folder(self) -> Path:
        """Where it stands once it is built."""
        digest = hashlib.sha256(self.lock.read_bytes()).hexdigest()[:12]
        return tools_folder() / f"{self.name}-{digest}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def is_built(self) -> bool:
        """Whether it stands."""
        return self.python.exists()

    def ensure(self, progress: Progress) -> Path:
        """Build it unless it stands; its interpreter.

        Raises:
            ToolEnvironmentError: it cannot be built here.
        """
        if not self.is_built:
            with _building_alone(self.name, progress):
                if not self.is_built:
                    build(self.folder, self.lock, self.modules, self.disk_bytes, progress)
        return self.python

    def call(
        self,
        tool: str,
        request: Mapping[str, Any],
        progress: Progress,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Mapping[str, Any]:
        """Run one of the modules in `tools/` inside the environment: JSON in, JSON out.

        Raises:
            ConversionFailedError: the tool refuses what it was given, in its own words.
            ToolEnvironmentError: the environment cannot be built here.
            ToolFailedError: the tool died, took too long, or gave no answer.
        """
        python = self.ensure(progress)
        with tempfile.TemporaryDirectory(prefix="packhorse-tool-") as folder:
            answer = Path(folder) / "answer.json"
            ended = run_program(
                [str(python), "-I", str(_HERE / "tools" / "__main__.py"), tool, str(answer)],
                folder=Path(folder),
                variables=_TOOL_VARIABLES,
                timeout_s=timeout_s,
                feed=json.dumps(request).encode() + b"\n",
            )
            return _answer(tool, answer, ended.code, ended.output)


ENVIRONMENTS: Final[Mapping[EnvironmentName, ToolEnvironment]] = MappingProxyType(
    {
        "tensorflow": ToolEnvironment(
            "tensorflow", ("tensorflow", "tf2onnx"), ("tensorflow-cpu", "tf2onnx"), 1_900_000_000
        ),
        "torch": ToolEnvironment(
            "torch",
            ("torch", "onnx", "onnxscript"),
            ("executorch", "litert-torch", "onnx2torch", "onnxscript", "torch", "torchao"),
            2_500_000_000,
        ),
        "tflite-runtime": ToolEnvironment(
            "tflite-runtime", ("pydantic", "tflite_runtime"), ("numpy", "tflite-runtime"), 150_000_000
        ),
    }
)


def tools_folder() -> Path:
    """Where tool environments stand: `packhorse/tools` in the user's cache folder (XDG base directories)."""
    cache = os.environ.get("XDG_CACHE_HOME") or ""
    base = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
    return base / "packhorse" / "tools"


@contextlib.contextmanager
def _building_alone(name: str, progress: Progress) -> Iterator[None]:
    try:
        tools_folder().mkdir(parents=True, exist_ok=True)
        file = (tools_folder() / f"{name}.lock").open("wb")
    except OSError as error:
        raise ToolEnvironmentError(f"{tools_folder()} cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another process that builds the tool environment {name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _answer(tool: str, path: Path, code: int, output: str) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(ANSWER_MAX_BYTES + 1)
        if len(data) > ANSWER_MAX_BYTES:
            raise ToolFailedError(f"{tool} answered more than {ANSWER_MAX_BYTES} bytes")
        answer = json.loads(data)
    except (OSError, RecursionError, ValueError) as error:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise ToolFailedError(f"{tool} {how} and gave no answer: {output[-_LAST_WORDS:]}") from error
    if not isinstance(answer, dict):
        raise ToolFailedError(f"{tool} answered no JSON object")
    if "refused" in answer:
        raise ConversionFailedError(str(answer["refused"]))
    if "failed" in answer:
        raise ToolFailedError(f"{tool} failed: {answer['failed']}: {output[-_LAST_WORDS:]}")
    return answer
