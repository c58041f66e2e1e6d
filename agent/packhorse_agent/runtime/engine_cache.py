"""Engines that TensorRT built, kept so that a restart takes seconds and not minutes.

An engine is good for one GPU and one version of TensorRT, so both are in its name, with the model and the way
to build. A file begins with the SHA-256 of what follows: one that a loss of power, a full disk or a bad card
has damaged is built again and never handed to TensorRT, which would crash on some of them. Beside the engines
lies the timing cache of each GPU and version: what TensorRT has timed once it need not time for the next
model.

The digest guards against accidents, not against people: whoever can write to the folder can already run code
as this user, and so the folder is for this user only.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Final

from packhorse_agent.errors import EnvironmentFaultError
from packhorse_agent.runtime.cuda_driver import Gpu
from packhorse_agent.store.durable import remove_durable, sweep_scratch, write_durable

FOLDER_VARIABLE: Final = "PACKHORSE_ENGINE_CACHE"
ENGINES_BYTES_MAX: Final = 2 * 1024**3
"""What all engines may take; the oldest go first."""
TIMING_BYTES_MAX: Final = 64 * 1024**2
"""A timing cache beyond it starts anew."""

_MAGIC: Final = b"packhorse engine 1\n"
_DIGEST_BYTES: Final = 32
_ENGINE: Final = ".engine"
_TIMING: Final = ".timing"
_LOCK: Final = "lock"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildOptions:
    """How engines are built; another way is another engine."""

    batch_max: int = 16
    """Samples that run at once where the model leaves its first axis free; more are taken in parts."""
    workspace_bytes: int = 512 * 1024**2
    """Scratch memory that a kernel may take: on a Jetson the GPU shares it with everyone."""
    tf32: bool = False
    """Products of floats with 10 bits of mantissa, TensorRT's default: `fp32` would not be what it says."""


@dataclass(frozen=True)
class EngineKey:
    """What an engine depends on."""

    gpu: Gpu
    tensorrt_version: str
    model_sha256: str
    options: BuildOptions

    @property
    def name(self) -> str:
        """Names the engine: equal keys have equal names, others never."""
        return _digest(asdict(self))

    @property
    def timing_name(self) -> str:
        """Names the timing cache that all models on one GPU and one version share."""
        return _digest({"gpu": asdict(self.gpu), "tensorrt_version": self.tensorrt_version})


class EngineCache:
    """A folder of engines. What cannot be read is not there; what cannot be written is said."""

    def __init__(self, folder: Path, bytes_max: int = ENGINES_BYTES_MAX) -> None:
        self._folder = folder
        self._bytes_max = bytes_max

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes from building at the same time: they would time each other's kernels.

        Waits for as long as it takes. Without a folder that can be written there is nothing to hold.
        """
        handle = None
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if handle is not None:
                os.close(handle)

    def engine(self, key: EngineKey) -> bytes | None:
        """The engine, whole; None where there is none, or a damaged one, which is forgotten."""
        return self._read(self._path(key.name + _ENGINE))

    def keep(self, key: EngineKey, engine: bytes) -> None:
        """Put an engine into the cache; the oldest go where there are too many.

        Raises:
            StorageFullError, StorageFaultError: it cannot be kept; what was there still is.
        """
        self._write(key.name + _ENGINE, engine)
        self._collect(key.name + _ENGINE)

    def forget(self, key: EngineKey) -> None:
        """Remove an engine that TensorRT does not take."""
        self._remove(self._path(key.name + _ENGINE))

    def timing(self, key: EngineKey) -> bytes:
        """What was timed before for this GPU and version; nothing at first."""
        return self._read(self._path(key.timing_name + _TIMING)) or b""

    def keep_timing(self, key: EngineKey, timing: bytes) -> None:
        """Put what was timed into the cache.

        Raises:
            StorageFullError, StorageFaultError: it cannot be kept; what was there still is.
        """
        if len(timing) <= TIMING_BYTES_MAX:
            self._write(key.timing_name + _TIMING, timing)
        else:
            self._remove(self._path(key.timing_name + _TIMING))

    def _path(self, name: str) -> Path:
        return self._folder / name

    def _write(self, name: str, content: bytes) -> None:
        sweep_scratch(self._folder)
        write_durable(self._path(name), _MAGIC + sha256(content).digest() + content, mode=0o600)

    def _read(self, path: Path) -> bytes | None:
        try:
            data = path.read_bytes()
        except OSError:
            return None
        begin = len(_MAGIC) + _DIGEST_BYTES
        content = data[begin:]
        if data[:begin] == _MAGIC + sha256(content).digest():
            return content
        _log.warning("%s is damaged and is made again", path)
        self._remove(path)
        return None

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(EnvironmentFaultError):
            remove_durable(path)

    def _collect(self, kept: str) -> None:
        facts = []
        for path in self._folder.glob(f"*{_ENGINE}"):
            with contextlib.suppress(OSError):  # gone in the meantime
                found = path.stat()
                facts.append((found.st_mtime_ns, found.st_size, path))
        total = sum(size for _, size, _ in facts)
        for _, size, path in sorted(facts):
            if total > self._bytes_max and path.name != kept:
                total -= size
                self._remove(path)


def default_folder() -> Path:
    """Where engines are kept: as `PACKHORSE_ENGINE_CACHE` says, else in the user's cache folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    # Unlike Path.expanduser it raises nothing where there is no home: then engines are not kept.
    return Path(cache or os.path.expanduser("~/.cache")) / "packhorse" / "engines"  # noqa: PTH111


def _digest(content: dict[str, object]) -> str:
    return sha256(dumps(content, sort_keys=True).encode()).hexdigest()
