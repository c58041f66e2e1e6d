"""Engines in their folder: names, bounds, and who may write."""

from __future__ import annotations

import multiprocessing
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.errors import EnvironmentFaultError
from packhorse_agent.runtime import engine_cache
from packhorse_agent.runtime.cuda_driver import Gpu
from packhorse_agent.runtime.engine_cache import BuildOptions, EngineCache, EngineKey, default_folder

KEY = EngineKey(Gpu("Orin", "8.7"), "10.3.0", "0" * 64, BuildOptions())

keys = st.builds(
    EngineKey,
    st.builds(Gpu, st.text(max_size=8), st.sampled_from(["8.6", "8.7"])),
    st.text(max_size=8),
    st.sampled_from(["0" * 64, "1" * 64]),
    st.builds(BuildOptions, st.integers(1, 3), st.integers(1, 3), st.booleans()),
)


@given(keys, keys)
def test_equal_keys_and_only_they_share_a_name(one: EngineKey, other: EngineKey) -> None:
    assert (one.name == other.name) == (one == other)
    same_machine = (one.gpu, one.tensorrt_version) == (other.gpu, other.tensorrt_version)
    assert (one.timing_name == other.timing_name) == same_machine


@given(content=st.binary(max_size=64))
def test_what_is_kept_comes_back(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    cache = EngineCache(tmp_path_factory.mktemp("engines"))
    cache.keep(KEY, content)
    cache.keep_timing(KEY, content[::-1])
    assert (cache.engine(KEY), cache.timing(KEY)) == (content, content[::-1])


def test_nothing_is_there_at_first(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "none")
    assert (cache.engine(KEY), cache.timing(KEY)) == (None, b"")
    cache.forget(KEY)


def other(number: int) -> EngineKey:
    return replace(KEY, model_sha256=f"{number:064x}")


def test_the_oldest_engines_go_first(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, bytes_max=1000)
    for number in range(4):
        cache.keep(other(number), b"x" * 300)
        for age, path in enumerate(
            sorted(tmp_path.glob("*.engine"), key=lambda path: path.stat().st_mtime_ns)
        ):
            os.utime(path, ns=(age, age))
    there = [cache.engine(other(number)) is not None for number in range(4)]
    assert there == [False, False, True, True]


def test_one_that_is_larger_than_the_bound_is_kept_alone(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, bytes_max=1000)
    cache.keep(other(0), b"x")
    cache.keep(other(1), b"x" * 2000)
    assert cache.engine(other(0)) is None
    assert cache.engine(other(1)) is not None


def test_a_timing_cache_that_grew_too_large_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_cache, "TIMING_BYTES_MAX", 10)
    cache = EngineCache(tmp_path)
    cache.keep_timing(KEY, b"x" * 10)
    assert cache.timing(KEY) == b"x" * 10
    cache.keep_timing(KEY, b"x" * 11)
    assert cache.timing(KEY) == b""


def test_engines_are_for_this_user_only(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines")
    with cache.held():
        cache.keep(KEY, b"engine")
    (engine,) = (tmp_path / "engines").glob("*.engine")
    assert stat.S_IMODE(engine.stat().st_mode) == 0o600
    assert stat.S_IMODE(engine.parent.stat().st_mode) == 0o700


def test_scratch_of_a_killed_process_is_swept(tmp_path: Path) -> None:
    left = tmp_path / ".something.engine.tmp"
    left.write_bytes(b"half")
    EngineCache(tmp_path).keep(KEY, b"engine")
    assert not left.exists()


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = EngineCache(tmp_path / "file" / "engines")
    with cache.held(), pytest.raises(EnvironmentFaultError):
        cache.keep(KEY, b"engine")


def hold(folder: Path, taken: Any, done: Any) -> None:
    with EngineCache(folder).held():
        taken.set()
        done.wait(20)


def test_two_processes_do_not_build_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    taken, done, second = context.Event(), context.Event(), context.Event()
    first_process = context.Process(target=hold, args=(tmp_path, taken, done))
    second_process = context.Process(target=hold, args=(tmp_path, second, done))
    first_process.start()
    try:
        assert taken.wait(20)
        second_process.start()
        assert not second.wait(0.2)
        done.set()
        assert second.wait(20)
    finally:
        done.set()
        for process in (first_process, second_process):
            if process.pid is not None:
                process.join(20)


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(engine_cache.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "packhorse" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_folder() == Path("/home/somebody/.cache/packhorse/engines")
    monkeypatch.setenv(engine_cache.FOLDER_VARIABLE, "/var/engines")
    assert default_folder() == Path("/var/engines")
