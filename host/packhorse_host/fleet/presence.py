"""Whether a controller runs on a workspace."""

from __future__ import annotations

import fcntl
import os

from packhorse_agent.store.errors import storage_error
from packhorse_host.workspace import Workspace

LOCK_FILE = "controller.lock"
"""In the workspace; the controller holds it while it runs."""


def controller_runs(workspace: Workspace) -> bool:
    """Whether a controller holds the workspace now, on this machine.

    Raises:
        StorageFaultError: that cannot be found out.
    """
    path = workspace.folder / LOCK_FILE
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise storage_error(error, str(path)) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
