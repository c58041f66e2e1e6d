"""Building a tool environment: a virtual environment of one Python version from a lock file with hashes."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from packhorse_host.convert.errors import ToolEnvironmentError, ToolFailedError
from packhorse_host.convert.processes import Ended, run_program

Progress = Callable[[str], None]
"""Says what is done now."""

PYTHON_VERSION: Final = "3.11"
"""Of every tool environment: the newest that tflite-runtime has wheels for."""
PYTHON_VARIABLE: Final = "PACKHORSE_TOOL_PYTHON"
LOCKED_MACHINE: Final = ("Linux", "x86_64")
"""What the lock files name wheels for."""

_BUILD_TIMEOUT_S: Final = 3600.0
_PROBE_TIMEOUT_S: Final = 20.0
_FETCHED: Final = re.compile(r"^(?:Collecting|Processing) (\S+)")
_CPU_BUILD_HINT: Final = (
    "the lock names PyTorch's build for CPUs: set PIP_EXTRA_INDEX_URL to PyTorch's own index of CPU wheels, "
    "or PIP_FIND_LINKS to a folder that holds the wheel"
)


def find_python() -> Path:
    """A Python of `PYTHON_VERSION`: the one that the user names, our own, or one that is installed.

    Raises:
        ToolEnvironmentError: there is none; the text says how to name one.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        version = _version_of(Path(named))
        if version != PYTHON_VERSION:
            raise ToolEnvironmentError(
                f"{PYTHON_VARIABLE}={named} is {f'Python {version}' if version else 'no Python'}; "
                f"the tool environments need Python {PYTHON_VERSION}"
            )
        return Path(named)
    for candidate in _candidates():
        if _version_of(candidate) == PYTHON_VERSION:
            return candidate
    raise ToolEnvironmentError(
        f"no Python {PYTHON_VERSION} with the venv module, which the tool environments need: "
        f"install one, or name it in {PYTHON_VARIABLE}"
    )


def build(folder: Path, lock: Path, modules: tuple[str, ...], needed_bytes: int, progress: Progress) -> None:
    """Make the environment at `folder`, which does not exist: all of it, or nothing.

    Args:
        folder: where it stands in the end.
        lock: pinned requirements with hashes, with all that they need.
        modules: import names that must work.
        needed_bytes: disk space that it takes.
        progress: told what happens, often.

    Raises:
        ToolEnvironmentError: wrong machine, no Python, no disk, no network, or a damaged wheel.
    """
    if (platform.system(), platform.machine()) != LOCKED_MACHINE:
        raise ToolEnvironmentError(
            f"the lock file {lock.name} is for {' on '.join(LOCKED_MACHINE)}, "
            f"this machine is {platform.system()} on {platform.machine()}: convert the model elsewhere"
        )
    python = find_python()
    scratch = folder.with_name(f"{folder.name}.building")
    try:
        _check_space(folder.parent, needed_bytes)
        shutil.rmtree(scratch, ignore_errors=True)
        _fill(scratch, python, lock, modules, progress)
        os.sync()
        scratch.rename(folder)
    except (OSError, ToolFailedError) as error:
        raise ToolEnvironmentError(f"{folder.name} cannot be built: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _candidates() -> Iterator[Path]:
    yield Path(sys.executable)
    on_path = shutil.which(f"python{PYTHON_VERSION}")
    if on_path:
        yield Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{PYTHON_VERSION}.*/bin/python"), reverse=True)


def _version_of(python: Path) -> str | None:
    check = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [str(python), "-c", check], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _check_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise ToolEnvironmentError(
            f"{folder} has {free / 1e9:.1f} GB free, the tool environment needs {needed_bytes / 1e9:.1f} GB: "
            "make room, or set XDG_CACHE_HOME to a folder on a larger disk"
        )


def _fill(scratch: Path, python: Path, lock: Path, modules: tuple[str, ...], progress: Progress) -> None:
    progress(f"building the tool environment {scratch.stem}")
    _run([str(python), "-m", "venv", str(scratch)], scratch.parent)
    total = lock.read_text().count("--hash=")
    fetched: list[str] = []

    def tell(line: str) -> None:
        found = _FETCHED.match(line)
        if found:
            fetched.append(found[1])
            name = found[1].split("/")[-1].split("==")[0]
            progress(f"building the tool environment {scratch.stem}: {name}, {len(fetched)} of {total}")
        elif line.startswith("Installing collected"):
            progress(f"building the tool environment {scratch.stem}: installing {total} packages")

    own_python = str(scratch / "bin" / "python")
    # The lock holds every dependency, so pip has nothing to resolve.
    _run(
        [own_python, "-m", "pip", "install", "--no-deps", "--no-compile", "--require-hashes",
         "--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--progress-bar", "off",
         "-r", str(lock)],
        scratch.parent,
        tell,
    )  # fmt: skip
    _run([own_python, "-I", "-c", f"import {', '.join(modules)}"], scratch.parent)


def _run(command: list[str], folder: Path, on_line: Progress = lambda line: None) -> None:
    ended = run_program(command, folder=folder, variables={}, timeout_s=_BUILD_TIMEOUT_S, on_line=on_line)
    if ended.code != 0:
        raise ToolEnvironmentError(_reason(ended))


def _reason(ended: Ended) -> str:
    errors = [line for line in ended.output.splitlines() if line.startswith("ERROR:")]
    text = " ".join(errors or ended.output.splitlines()[-3:])[:600]
    if "No space left" in ended.output:
        return f"the disk is full: {text}"
    if "torch" in text and ("No matching distribution" in text or "DO NOT MATCH" in ended.output):
        return f"{text} ({_CPU_BUILD_HINT})"
    if "establish a new connection" in ended.output or "Name or service not known" in ended.output:
        return f"no package registry can be reached: {text}"
    return text
