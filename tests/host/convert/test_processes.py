"""Programs are run with a bound on everything, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from packhorse_host.convert.errors import ToolFailedError
from packhorse_host.convert.processes import OUTPUT_KEPT_BYTES, Ended, run_program
from tests.helpers import wait_until

WITH_CHILD = (
    "import pathlib, subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "scratch = pathlib.Path('pids.part'); scratch.write_text(f'{child.pid}'); scratch.rename('pids')\n"
)


def run_python(code: str, folder: Path, timeout_s: float = 30.0, feed: bytes = b"") -> Ended:
    return run_program(
        [sys.executable, "-c", code], folder=folder, variables={}, timeout_s=timeout_s, feed=feed
    )


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_code_and_output_come_back(tmp_path: Path) -> None:
    ended = run_python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)", tmp_path)
    assert ended.code == 3
    assert {"out", "err"} <= set(ended.output.split())


def test_only_the_end_of_much_output_is_kept(tmp_path: Path) -> None:
    ended = run_python("print('x' * 500_000); print('last words')", tmp_path)
    assert len(ended.output) <= OUTPUT_KEPT_BYTES
    assert ended.output.endswith("last words")


def test_it_is_fed(tmp_path: Path) -> None:
    assert run_python("print(input())", tmp_path, feed=b"hello\n").output == "hello"


def test_feeding_what_has_died_is_no_error(tmp_path: Path) -> None:
    assert run_python("import os; os._exit(4)", tmp_path, feed=b"x" * 1_000_000).code == 4


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(ToolFailedError, match="still running"):
        run_python(WITH_CHILD + "time.sleep(600)", tmp_path, timeout_s=5)
    child = int((tmp_path / "pids").read_text())
    wait_until(lambda: is_gone(child))


def test_a_child_that_outlives_its_parent_is_ended_too(tmp_path: Path) -> None:
    assert run_python(WITH_CHILD, tmp_path).code == 0
    child = int((tmp_path / "pids").read_text())
    wait_until(lambda: is_gone(child))


def test_ctrl_c_ends_the_program_with_its_children(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; import sys\n"
        "from packhorse_host.convert.processes import run_program\n"
        "run_program([sys.executable, '-c', Path('code').read_text()], folder=Path('.'), variables={},"
        " timeout_s=600)\n"
    )
    (tmp_path / "code").write_text(WITH_CHILD + "time.sleep(600)")
    caller = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        wait_until((tmp_path / "pids").exists)
        caller.send_signal(signal.SIGINT)
        assert caller.wait(20) != 0
        wait_until(lambda: is_gone(int((tmp_path / "pids").read_text())))
    finally:
        caller.kill()
        caller.wait()


def test_what_cannot_be_started_is_said(tmp_path: Path) -> None:
    with pytest.raises(ToolFailedError, match="cannot be started"):
        run_program([str(tmp_path / "none")], folder=tmp_path, variables={}, timeout_s=5)


def test_our_own_python_paths_do_not_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    ended = run_program(
        [sys.executable, "-c", "import os; print(os.environ.get('PYTHONPATH'), os.environ['MORE'])"],
        folder=tmp_path,
        variables={"MORE": "1"},
        timeout_s=30,
    )
    assert ended.output == "None 1"


def test_threads_and_descriptors_are_given_back(tmp_path: Path) -> None:
    run_python("pass", tmp_path)
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        run_python("print(1)", tmp_path)
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
