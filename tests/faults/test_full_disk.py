"""A disk that is really full: a small tmpfs."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from packhorse_agent.contract.base import WireDocument
from packhorse_agent.contract.chunks import Want
from packhorse_agent.contract.states import FailureReason
from packhorse_agent.errors import ConflictError
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.store.durable import write_durable
from packhorse_agent.store.errors import StorageFullError
from packhorse_agent.store.lock import FolderLock
from packhorse_agent.store.state_file import StateFile
from packhorse_agent.transfer import Completed, Downloader, Failed
from tests.fakes.blobs import random_blob
from tests.fakes.delivery import Delivery

SIZE_BYTES = 1024 * 1024


class Note(WireDocument):
    text: str


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs (needs CAP_SYS_ADMIN): {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)):
                pass
        except OSError:
            return


def _free_bytes(disk: Path) -> int:
    space = os.statvfs(disk)
    return space.f_bavail * space.f_frsize


def test_a_state_file_keeps_its_old_content(disk: Path) -> None:
    state = StateFile(disk / "state.json", Note)
    state.save(Note(text="old"))
    _fill(disk)
    with pytest.raises(StorageFullError, match="No space left"):
        state.save(Note(text="new" * 3000))
    assert state.load() == Note(text="old")
    assert sorted(entry.name for entry in disk.iterdir()) == ["filler", "state.json"]


def test_a_new_file_leaves_nothing_behind(disk: Path) -> None:
    _fill(disk)
    with pytest.raises(StorageFullError):
        write_durable(disk / "new", bytes(10_000))
    assert [entry.name for entry in disk.iterdir()] == ["filler"]


def test_a_blob_that_does_not_fit_does_not_begin(disk: Path) -> None:
    store = BlobStore(disk, headroom_bytes=0)
    free_before = _free_bytes(disk)
    blob = random_blob(17)
    with pytest.raises(StorageFullError):
        store.open_partial(blob.sha256, len(blob.data), blob.digests)
    assert store.partials() == []
    assert list((disk / "partial").iterdir()) == []
    assert _free_bytes(disk) == free_before


def test_a_blob_that_began_completes_on_a_disk_that_fills_up(disk: Path) -> None:
    store = BlobStore(disk, headroom_bytes=64 * 1024)
    blob = random_blob(10)
    partial = store.open_partial(blob.sha256, len(blob.data), blob.digests)
    partial.write_chunk(0, blob.chunk(0))
    _fill(disk)
    for index in range(1, blob.count):
        partial.write_chunk(index, blob.chunk(index))
    (disk / "filler").unlink()
    assert partial.complete().read_bytes() == blob.data


def test_a_download_that_does_not_fit_fails_with_its_reason(disk: Path) -> None:
    blob, small = random_blob(17), random_blob(2, seed=5)
    delivery = Delivery([blob, small])
    downloader = Downloader(BlobStore(disk, headroom_bytes=0), delivery.ask, delivery.clock, random.Random(0))
    downloader.want(blob.spec)
    downloader.want(small.spec)
    events = delivery.run(downloader, until=2)
    failed = next(event for event in events if isinstance(event, Failed))
    assert (failed.sha256, failed.reason) == (blob.sha256, FailureReason.STORAGE_FULL)
    assert "free some space" in failed.detail
    assert Completed(small.sha256) in events
    assert [entry.name for entry in (disk / "partial").iterdir()] == []
    assert downloader.next_due() is None


def test_a_single_chunk_that_does_not_fit_fails_with_its_reason(disk: Path) -> None:
    blob = random_blob(1, last_bytes=50_000)
    delivery = Delivery([blob])
    store = BlobStore(disk)
    downloader = Downloader(store, delivery.ask, delivery.clock, random.Random(0))
    _fill(disk)
    downloader.want(blob.spec)
    (failed,) = delivery.run(downloader, until=1)
    assert isinstance(failed, Failed) and failed.reason is FailureReason.STORAGE_FULL
    assert store.size_bytes() == 0
    (disk / "filler").unlink()
    downloader.want(blob.spec)
    assert delivery.run(downloader, until=1) == [Completed(blob.sha256)]


def test_a_full_disk_keeps_nobody_from_locking(disk: Path) -> None:
    with FolderLock(disk / "agent.lock"):
        _fill(disk)
    with FolderLock(disk / "agent.lock"), pytest.raises(ConflictError):
        FolderLock(disk / "agent.lock").acquire()


def test_wants_go_nowhere_when_nothing_begins(disk: Path) -> None:
    wants: list[Want] = []
    blob = random_blob(17)
    store = BlobStore(disk, headroom_bytes=0)
    store.add_bytes(blob.levels[0])
    downloader = Downloader(store, wants.append, lambda: 0.0, random.Random(0))
    downloader.want(blob.spec)
    (failed,) = downloader.poll()
    assert isinstance(failed, Failed) and failed.reason is FailureReason.STORAGE_FULL
    assert wants == []
