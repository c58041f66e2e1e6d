"""What a child process of the supervisor gives up before it touches what came from outside."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_OOM_SCORE_ADJUST: Final = 500


class OrphanedError(Exception):
    """The supervisor ended before the child could tie itself to it."""


def harden(parent_pid: int, memory_limit_bytes: int | None) -> None:
    """Die with the supervisor, gain no privilege, write no core, and keep within the memory.

    Raises:
        OrphanedError: the supervisor is gone already.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise OrphanedError(f"process {parent_pid} is gone")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_limit_bytes is not None:
        limit_memory(memory_limit_bytes)
    _be_the_first_to_go()


def limit_memory(limit_bytes: int) -> None:
    """Bound the memory that is written to: data, stacks, private mappings.

    Not the address space (RLIMIT_AS): that counts what runtimes only reserve and the libraries they map, and
    says little about memory.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit_bytes = min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def _be_the_first_to_go() -> None:
    """When the machine runs out of memory, the child goes and the supervisor stays."""
    try:
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_ADJUST))
    except OSError:  # Android and some containers forbid it; the rest holds all the same
        return
