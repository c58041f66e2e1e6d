"""Commands of Packhorse as child processes; whatever happens, none outlives the demo."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_STOP_WAIT_S = 10.0


class DemoError(Exception):
    """A step failed; the text holds what the command said."""


class Commands:
    """Runs commands in one folder, and keeps servers until the end.

    The agent may come from an environment of its own, as on a device: `agent_bin`.
    """

    def __init__(self, folder: Path, agent_bin: Path | None = None) -> None:
        self._folder = folder
        self._servers: list[subprocess.Popen[bytes]] = []
        self._pids: dict[str, int] = {}
        self._bin = Path(sys.executable).parent
        self._agent_bin = agent_bin or self._bin

    def run(self, program: str, *arguments: str) -> str:
        """Run a command to its end and return its standard output.

        Raises:
            DemoError: it failed.
        """
        child = subprocess.Popen(
            [self._path(program), *arguments],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._servers.append(child)
        output, errors = child.communicate()
        self._servers.remove(child)
        if child.returncode != 0:
            said = errors.decode(errors="replace").strip()
            raise DemoError(f"`{program} {' '.join(arguments)}` ended with {child.returncode}:\n{said}")
        return output.decode()

    def ask(self, program: str, *arguments: str) -> Any:
        """Run a command with `--json` and return what it printed."""
        return json.loads(self.run(program, *arguments, "--json"))

    def serve(self, name: str, program: str, *arguments: str) -> None:
        """Start a server; its output goes to `NAME.log`."""
        with (self._folder / f"{name}.log").open("wb") as log:
            child = subprocess.Popen(
                [self._path(program), *arguments],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._servers.append(child)
        self._pids[name] = child.pid

    def _path(self, program: str) -> str:
        return str((self._agent_bin if program == "packhorse-agent" else self._bin) / program)

    def pid_of(self, name: str) -> int:
        """The process id of a server."""
        return self._pids[name]

    def check_servers(self) -> None:
        """See that all servers run.

        Raises:
            DemoError: one has ended.
        """
        for child in self._servers:
            if child.poll() is not None:
                command = " ".join(map(str, child.args)) if isinstance(child.args, list) else str(child.args)
                raise DemoError(f"`{command}` ended with {child.returncode}; see the logs in {self._folder}")

    def stop(self) -> None:
        """End everything that still runs, last started first."""
        for child in reversed(self._servers):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
        deadline_s = time.monotonic() + _STOP_WAIT_S
        for child in self._servers:
            try:
                child.wait(max(deadline_s - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        self._servers.clear()


@contextlib.contextmanager
def commands(folder: Path, agent_bin: Path | None = None) -> Iterator[Commands]:
    """Commands whose servers end with the block, also on Ctrl-C and SIGTERM."""
    signal.signal(signal.SIGTERM, _interrupt)
    running = Commands(folder, agent_bin)
    try:
        yield running
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        running.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
