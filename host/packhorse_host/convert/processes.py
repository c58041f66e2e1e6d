"""Programs that the converter runs: bounded output, a deadline, and no child left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from packhorse_host.convert.errors import ToolFailedError

OUTPUT_KEPT_BYTES: Final = 32 * 1024
"""What a program prints is kept from the end: that is where it says why it failed."""
_LINE_MAX_BYTES: Final = 8 * 1024
_MISLEADING: Final = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")
"""Variables that would lead a tool's Python into another environment."""


@dataclass(frozen=True)
class Ended:
    """A program that has ended by itself."""

    code: int
    output: str
    """The end of what it printed on both streams."""


def run_program(
    command: Sequence[str],
    *,
    folder: Path,
    variables: Mapping[str, str],
    timeout_s: float,
    feed: bytes = b"",
    on_line: Callable[[str], None] = lambda line: None,
) -> Ended:
    """Run a program and everything that it starts in a process group of its own.

    Its standard input gets `feed` and stays open until it ends, so that a program which watches it learns of
    our own sudden death. Whatever happens here, Ctrl-C included, the group is gone when this returns.

    Raises:
        ToolFailedError: it cannot be started, or is still running after `timeout_s`.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=_environment(variables),
            start_new_session=True,
        )
    except OSError as error:
        raise ToolFailedError(f"{command[0]} cannot be started: {error.strerror}") from error
    with process:
        try:
            return _watched(process, timeout_s, feed, on_line)
        finally:
            _end_group(process)


def _watched(
    process: subprocess.Popen[bytes], timeout_s: float, feed: bytes, on_line: Callable[[str], None]
) -> Ended:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101
    tail = _Tail(process.stdout, on_line)
    tail.start()
    with contextlib.suppress(BrokenPipeError):  # it died at once: its exit code and its last words say why
        process.stdin.write(feed)
        process.stdin.flush()
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired as error:
        raise ToolFailedError(f"still running after {timeout_s:.0f} s: {tail.text[-500:]}") from error
    _end_group(process)  # a child of it that holds the pipe must not hold us
    tail.join()
    return Ended(code, tail.text)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    return {**kept, "PYTHONNOUSERSITE": "1", **variables}


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None and not process.stdin.closed:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


class _Tail(threading.Thread):
    """Reads lines as they come, so that the program never blocks, and keeps the last ones."""

    def __init__(self, stream: IO[bytes], on_line: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self._on_line = on_line
        self._kept = bytearray()

    def run(self) -> None:
        """Read until every writer has closed the pipe."""
        while line := self._stream.readline(_LINE_MAX_BYTES):
            self._kept += line
            del self._kept[:-OUTPUT_KEPT_BYTES]
            self._on_line(line.decode(errors="replace").rstrip())

    @property
    def text(self) -> str:
        """The end of what was printed."""
        return self._kept.decode(errors="replace").strip()
