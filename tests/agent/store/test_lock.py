"""One process a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from packhorse_agent.errors import ConflictError
from packhorse_agent.store.errors import StorageFaultError
from packhorse_agent.store.lock import FolderLock

HOLDER = """
import sys
from pathlib import Path
from packhorse_agent.store.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_is_told_who_is_the_first(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "agent.lock"), pytest.raises(ConflictError, match=f"process {os.getpid()}"):
        FolderLock(tmp_path / "agent.lock").acquire()


def test_a_released_lock_is_free(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "agent.lock")
    for _ in range(2):
        lock.acquire()
        lock.acquire()
        lock.release()
        lock.release()
    with FolderLock(tmp_path / "agent.lock"):
        pass


def test_a_folder_that_is_not_there_is_a_storage_fault(tmp_path: Path) -> None:
    with pytest.raises(StorageFaultError):
        FolderLock(tmp_path / "absent" / "agent.lock").acquire()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "agent.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin and holder.stdout
    with holder.stdin, holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConflictError, match=f"process {holder.pid}"):
            FolderLock(path).acquire()
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=10)
    with FolderLock(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_children_do_not_inherit_the_lock(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "agent.lock")
    lock.acquire()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lock.release()
    with FolderLock(tmp_path / "agent.lock"):
        child.communicate(b"\n", timeout=10)
