"""Tool environments: built whole or not at all, once, and called as processes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from packhorse_host.convert import building, environments
from packhorse_host.convert.building import PYTHON_VARIABLE, build, find_python
from packhorse_host.convert.environments import ENVIRONMENTS, ToolEnvironment, tools_folder
from packhorse_host.convert.errors import ConversionFailedError, ToolEnvironmentError, ToolFailedError
from tests.helpers import wait_until

ENVIRONMENT = ENVIRONMENTS["tflite-runtime"]


def silently(text: str) -> None:
    """Nobody listens."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def borrowed(cache: Path) -> ToolEnvironment:
    """An environment that stands, with our own Python in it."""
    ENVIRONMENT.python.parent.mkdir(parents=True)
    ENVIRONMENT.python.symlink_to(sys.executable)
    return ENVIRONMENT


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of one small package that lies on the disk; no registry is asked."""
    if not _has_python():
        pytest.skip("Python 3.11 is not installed: the tool environments are made for it")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    digest = _write_wheel(wheels / "tinytool-1.0-py3-none-any.whl")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    file = tmp_path / "tiny-cp311.txt"
    file.write_text(f"tinytool==1.0 --hash=sha256:{digest}\n")
    return file


def _has_python() -> bool:
    try:
        find_python()
    except ToolEnvironmentError:
        return False
    return True


def _write_wheel(path: Path) -> str:
    info = "tinytool-1.0.dist-info"
    files = {
        "tinytool.py": "VALUE = 42\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tinytool\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={_record_digest(text)},{len(text)}\n" for name, text in files.items())
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(name, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _record_digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def test_it_stands_in_the_users_cache_folder(cache: Path) -> None:
    assert tools_folder() == cache / "packhorse" / "tools"
    assert ENVIRONMENT.folder.parent == tools_folder()
    assert not ENVIRONMENT.is_built


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_a_cache_folder_that_is_not_absolute_is_ignored(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert tools_folder() == Path.home() / ".cache" / "packhorse" / "tools"


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=lambda e: str(e.name))
def test_every_lock_pins_each_package_with_its_hash(environment: ToolEnvironment) -> None:
    lines = [line for line in environment.lock.read_text().splitlines() if not line.startswith("#")]
    assert all("==" in line for line in lines[::2])
    assert all(len(line.strip()) == len("--hash=sha256:") + 64 for line in lines[1::2])
    pinned = {line.split("==")[0] for line in lines[::2]}
    assert set(environment.tools) <= pinned
    assert not any(name.startswith(("nvidia-", "triton")) for name in pinned)


@pytest.mark.slow
def test_an_environment_is_built_whole(lock: Path, tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "tiny"
    build(folder, lock, ("tinytool",), 1000, said.append)
    code = "import tinytool; print(tinytool.VALUE)"
    answer = subprocess.run(
        [folder / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "42"
    assert any("1 of 1" in text for text in said)
    assert not list(tmp_path.glob("*.building"))


@pytest.mark.slow
def test_a_package_with_another_hash_is_not_installed(lock: Path, tmp_path: Path) -> None:
    lock.write_text(f"tinytool==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(ToolEnvironmentError, match=r"(?i)hash|matching"):
        build(tmp_path / "tiny", lock, ("tinytool",), 1000, silently)
    assert not list(tmp_path.glob("tiny")) and not list(tmp_path.glob("*.building"))


@pytest.mark.slow
def test_a_kill_while_it_is_built_leaves_nothing_that_looks_whole(lock: Path, tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; import sys\nfrom packhorse_host.convert.building import build\n"
        "build(Path(sys.argv[1]), Path(sys.argv[2]), ('tinytool',), 1000, print)"
    )
    folder = tmp_path / "tiny"
    builder = subprocess.Popen([sys.executable, "-c", script, folder, lock], stdout=subprocess.DEVNULL)
    try:
        wait_until((tmp_path / "tiny.building" / "pyvenv.cfg").exists, deadline_s=60)
        children = psutil.Process(builder.pid).children(recursive=True)
        builder.send_signal(signal.SIGKILL)
        builder.wait()
        for child in children:
            child.kill()
        psutil.wait_procs(children, timeout=20)
    finally:
        builder.kill()
    assert not folder.exists()
    build(folder, lock, ("tinytool",), 1000, silently)
    assert (folder / "bin" / "python").exists()


def test_another_python_than_it_needs_is_refused_by_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    monkeypatch.setattr(building, "PYTHON_VERSION", "3.99")
    with pytest.raises(ToolEnvironmentError, match=r"need Python 3\.99"):
        find_python()


def test_a_python_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "python"))
    with pytest.raises(ToolEnvironmentError, match="is no Python"):
        find_python()


def test_where_there_is_no_such_python_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    monkeypatch.setattr(building, "PYTHON_VERSION", "3.99")
    with pytest.raises(ToolEnvironmentError, match=PYTHON_VARIABLE):
        find_python()


def test_a_disk_without_room_is_said_before_anything_is_fetched(lock: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolEnvironmentError, match="XDG_CACHE_HOME"):
        build(tmp_path / "tiny", lock, ("tinytool",), 10**18, silently)
    assert not list(tmp_path.glob("*.building"))


def test_another_machine_than_the_lock_is_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(ToolEnvironmentError, match="riscv64"):
        build(tmp_path / "tiny", ENVIRONMENT.lock, (), 0, silently)


def test_two_builders_build_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Path] = []
    begun = threading.Event()

    def slow_build(folder: Path, *_: Any) -> None:
        built.append(folder)
        begun.wait(10)
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").touch()

    monkeypatch.setattr(environments, "build", slow_build)
    said: list[str] = []
    first = threading.Thread(target=ENVIRONMENT.ensure, args=(silently,))
    first.start()
    wait_until(lambda: built)
    second = threading.Thread(target=ENVIRONMENT.ensure, args=(said.append,))
    second.start()
    wait_until(lambda: said)
    begun.set()
    first.join()
    second.join()
    assert built == [ENVIRONMENT.folder]
    assert "waiting for another process" in said[0]


def test_a_cache_folder_that_cannot_be_written_is_said(cache: Path) -> None:
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("in the way")
    with pytest.raises(ToolEnvironmentError, match="cannot be written"):
        ENVIRONMENT.ensure(silently)


def test_a_tool_that_fails_says_how(borrowed: ToolEnvironment) -> None:
    with pytest.raises(ToolFailedError, match=r"replay failed: \w+Error: .*Traceback"):
        borrowed.call("replay", {}, silently)


def test_a_tool_that_does_not_exist_fails(borrowed: ToolEnvironment) -> None:
    with pytest.raises(ToolFailedError, match="no answer"):
        borrowed.call("nothing", {}, silently)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ({"refused": "too odd"}, ConversionFailedError, "too odd"),
        ({"failed": "ValueError: x"}, ToolFailedError, "ValueError"),
        ([], ToolFailedError, "no JSON object"),
    ],
)
def test_answers_are_told_apart(answer: Any, error: type[Exception], words: str, tmp_path: Path) -> None:
    file = tmp_path / "answer.json"
    file.write_text(json.dumps(answer))
    with pytest.raises(error, match=words):
        environments._answer("tool", file, 0, "")


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b" " * (1024**2 + 1)])
def test_no_answer_is_the_tools_failure(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "answer.json"
    file.write_bytes(content)
    with pytest.raises(ToolFailedError):
        environments._answer("tool", file, -9, "last words")


def test_a_tool_ends_when_its_caller_dies(borrowed: ToolEnvironment, tmp_path: Path) -> None:
    """Its standard input is all that tells it: here the other end is closed."""
    command = [str(borrowed.python), "-I", str(Path(environments.__file__).parent / "tools" / "__main__.py")]
    slow = tmp_path / "slow.fifo"
    os.mkfifo(slow)
    request = {"agent": str(slow.parent), "vectors": str(slow)}
    (slow.parent / "__init__.py").write_text(f"open({str(slow)!r}).read()")
    tool = subprocess.Popen(
        [*command, "replay", str(tmp_path / "answer.json")], stdin=subprocess.PIPE, start_new_session=True
    )
    assert tool.stdin is not None
    tool.stdin.write(json.dumps(request).encode() + b"\n")
    tool.stdin.close()
    assert tool.wait(30) == -signal.SIGKILL
