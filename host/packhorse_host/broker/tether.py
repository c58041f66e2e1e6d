"""Turn this process into another program that the kernel ends with its parent.

Run as a script, `python -I -S tether.py PARENT_PID PROGRAM ARGUMENT…`, so it imports nothing of Packhorse.
Setting this up between fork and exec in the parent instead would run Python there, which is unsafe in a
process with threads. Source: prctl(2), PR_SET_PDEATHSIG; the setting survives execve(2).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_CANNOT_RUN = 126
_DESCRIPTORS_WANTED = 65_536


def become(parent_pid: int, command: list[str]) -> None:
    """Replace this process; returns only by `SystemExit`.

    Raises:
        SystemExit: the parent is gone already, or the program cannot be executed.
    """
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(_CANNOT_RUN)
    if os.getppid() != parent_pid:
        sys.exit(_CANNOT_RUN)
    _allow_many_connections()
    try:
        os.execv(command[0], command)  # noqa: S606 (no shell is wanted)
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot run: {error.strerror}\n")
        sys.exit(_CANNOT_RUN)


def _allow_many_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
