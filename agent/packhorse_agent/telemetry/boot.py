"""The boot counter: how often the agent has started, never the same number twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from packhorse_agent.contract.base import WireDocument
from packhorse_agent.store.files import OS_FILES, Files
from packhorse_agent.store.state_file import StateFile


class BootCount(WireDocument):
    """The number of the last start."""

    boot: Annotated[int, Field(ge=1)]


def next_boot(path: Path, wall_unix_s: Callable[[], float] = time.time, files: Files = OS_FILES) -> int:
    """Count one more start and return its number, durably stored before it is used.

    A counter that is there but unreadable is set aside and goes on from the seconds of the wall clock: that
    is more than any count of starts, and the fleet takes a report of a lower boot for a replay.

    Raises:
        StorageFullError, StorageFaultError: the number could not be stored, so it must not be used.
    """
    state = StateFile(path, BootCount, files=files)
    fresh = files.facts(path) is None
    last = state.load()
    unreadable = last is None and not fresh
    boot = max(int(wall_unix_s()), 1) if unreadable else (last.boot if last else 0) + 1
    state.save(BootCount(boot=boot))
    return boot
