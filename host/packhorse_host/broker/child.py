"""A child process that cannot outlive this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from packhorse_host.broker import tether

_KILL_WAIT_S: Final = 5.0


class Child:
    """A program in its own session (Ctrl-C at the terminal does not reach it), its output in a file.

    The kernel ends it when the *thread* that started it ends, so that is a thread of its own, which then
    waits for it.

    Raises:
        OSError: no process could be started, or the log cannot be opened.
    """

    def __init__(self, command: Sequence[str], log_file: Path) -> None:
        self._command = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *command]
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        self._started = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._run, name=f"child {Path(command[0]).name}", daemon=True).start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    @property
    def pid(self) -> int:
        """Its process id; after it has ended too."""
        return self._running().pid

    @property
    def exit_status(self) -> int | None:
        """As `Popen.returncode`; None while it runs."""
        return self._running().returncode if self._ended.is_set() else None

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended, after waiting for that at most `timeout_s`."""
        return self._ended.wait(timeout_s)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended."""
        if not self._ended.is_set():
            self._running().send_signal(number)

    def stop(self, grace_s: float) -> None:
        """Ask it to end, and after `grace_s` make it."""
        self.signal(signal.SIGTERM)
        if not self.wait(grace_s):
            self.signal(signal.SIGKILL)
            self.wait(_KILL_WAIT_S)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None  # noqa: S101 (the constructor raises otherwise)
        return self._process

    def _run(self) -> None:
        try:
            with self._log_file.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._log_file.parent,
                    start_new_session=True,
                )
        except OSError as error:
            self._failure = error
            return
        finally:
            self._started.set()
        self._process.wait()
        self._ended.set()
