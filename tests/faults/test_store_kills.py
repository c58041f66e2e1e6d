"""A kill or a loss of power at every boundary of the store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from packhorse_agent.store.blobs import BlobStore
from tests.fakes.blobs import random_blob
from tests.fakes.memory_files import Killed, MemoryFiles, PowerLoss

ROOT = Path("/state")
BLOB = random_blob(5)
ORDER = (0, 3, 1, 4, 2)


@dataclass
class Life:
    """What one process said before it ended."""

    reported: set[int] = field(default_factory=set)
    synced: set[int] = field(default_factory=set)
    completed: bool = False


def _live(files: MemoryFiles, life: Life) -> None:
    """A process that fetches the blob, syncing after every second chunk."""
    store = BlobStore(ROOT, files, headroom_bytes=0)
    if store.has(BLOB.sha256):
        life.completed = True
        return
    partial = store.open_partial(BLOB.sha256, len(BLOB.data), BLOB.digests)
    partial.settle(1 << 30)
    missing = set(partial.missing())
    for step, index in enumerate(index for index in ORDER if index in missing):
        assert partial.write_chunk(index, BLOB.chunk(index))
        life.reported.add(index)
        if step % 2:
            partial.sync()
            life.synced = set(life.reported)
    partial.complete()
    life.completed = True


def _killed_at_every_boundary(tears: bool = False) -> Iterator[tuple[MemoryFiles, Life]]:
    kill_at = 0
    while True:
        files, life = MemoryFiles(ROOT), Life()
        files.kill_at, files.tears_writes = kill_at, tears
        try:
            _live(files, life)
        except Killed:
            yield files, life
            kill_at += 1
            continue
        yield files, life
        assert kill_at > 20
        return


def _finish_without(files: MemoryFiles, kept: set[int], completed: bool) -> None:
    """Start again: what was kept must be there, what is there must be right, and the blob comes whole."""
    store = BlobStore(ROOT, files, headroom_bytes=0)
    if completed:
        assert store.has(BLOB.sha256)
    if not store.has(BLOB.sha256):
        partial = store.open_partial(BLOB.sha256, len(BLOB.data), BLOB.digests)
        partial.settle(1 << 30)
        assert not kept & set(partial.missing())
        for index in partial.missing():
            partial.write_chunk(index, BLOB.chunk(index))
        partial.complete()
    assert files.content(ROOT / "blobs" / BLOB.sha256) == BLOB.data
    store = BlobStore(ROOT, files, headroom_bytes=0)
    assert store.partials() == []
    assert files.entries(ROOT / "partial") == []


@pytest.mark.parametrize("tears", [False, True])
def test_a_kill_loses_no_chunk_that_was_reported(tears: bool) -> None:
    for files, life in _killed_at_every_boundary(tears):
        files.restart()
        _finish_without(files, life.reported, life.completed)


def test_two_kills_lose_no_chunk_that_was_reported() -> None:
    for first_files, _ in _killed_at_every_boundary():
        calls = first_files.calls
        first_files.restart()
        for kill_at in (1, 3, 4, 5, 7, 9):
            files, life = MemoryFiles(ROOT), Life()
            for end in (calls, kill_at):
                files.kill_at = end
                try:
                    _live(files, life)
                except Killed:
                    files.restart()
            files.restart()
            _finish_without(files, life.reported, life.completed)


def _is(name: str) -> Callable[[Path], bool]:
    return lambda path: path.name == name


@pytest.mark.parametrize("keeps_names", [False, True])
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize(
    "keeps_data",
    [lambda path: False, lambda path: True, _is("bitmap"), _is("data")],
    ids=["nothing", "everything", "bitmap only", "data only"],
)
def test_a_loss_of_power_loses_no_chunk_that_was_synced(
    keeps_names: bool, empty: bool, keeps_data: Callable[[Path], bool]
) -> None:
    for files, life in _killed_at_every_boundary():
        files.lose_power(PowerLoss(keeps_names, keeps_data, empty))
        _finish_without(files, life.synced, life.completed)


CHILD = """
import sys
from pathlib import Path
from packhorse_agent.store.blobs import BlobStore
from tests.fakes.blobs import random_blob

blob = random_blob(40, seed=9)
partial = BlobStore(Path(sys.argv[1])).open_partial(blob.sha256, len(blob.data), blob.digests)
partial.settle(1 << 30)
for index in list(partial.missing()):
    partial.write_chunk(index, blob.chunk(index))
    print(index, flush=True)
sys.stdin.read()
"""


def _run_and_kill(root: Path, after: int) -> list[int]:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdin and child.stdout
    with child.stdin, child.stdout:
        told = [int(child.stdout.readline()) for _ in range(after)]
        child.send_signal(signal.SIGKILL)
        told += [int(line) for line in child.stdout.read().split(b"\n") if line]
        child.wait(timeout=10)
    return told


def test_a_process_killed_for_real_keeps_its_chunks(tmp_path: Path) -> None:
    blob = random_blob(40, seed=9)
    told = _run_and_kill(tmp_path, after=7)
    told += _run_and_kill(tmp_path, after=3)
    assert len(set(told)) == len(told) >= 10
    partial = BlobStore(tmp_path).open_partial(blob.sha256, len(blob.data), blob.digests)
    partial.settle(1 << 30)
    missing = partial.missing()
    assert not set(told) & set(missing)
    for index in missing:
        partial.write_chunk(index, blob.chunk(index))
    assert partial.complete().read_bytes() == blob.data
