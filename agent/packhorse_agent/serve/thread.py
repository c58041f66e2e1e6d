"""The one thread that the runtime runs on, so that the loop stays free for connections."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from packhorse_agent.contract.exit_codes import ExitCode

_log = logging.getLogger(__name__)

T = TypeVar("T")


class RuntimeThread:
    """Runs jobs in order. Not an executor: its futures cost more than the small inferences they carry."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.depth = 0
        """Jobs that wait or run."""
        threading.Thread(target=self._run, name="runtime", daemon=True).start()

    def submit(self, job: Callable[[], T], done: Callable[[T], None]) -> None:
        """Run `job` on the thread, then `done` with its result on the loop; `job` must not raise."""
        self.depth += 1

        def finish(result: T) -> None:
            self.depth -= 1
            done(result)

        def run() -> None:
            self._loop.call_soon_threadsafe(finish, job())

        self._jobs.put(run)

    def _run(self) -> None:
        try:
            while True:
                self._jobs.get()()
        except BaseException:
            # without its thread the worker would hang; as a crash the supervisor sees it
            _log.critical("the runtime thread failed", exc_info=True)
            os._exit(ExitCode.BUG)
