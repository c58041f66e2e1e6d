"""Whole small files: the old content or the new."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from packhorse_agent.store.durable import remove_durable, sweep_scratch, write_durable
from packhorse_agent.store.errors import StorageFaultError, StorageFullError
from tests.fakes.memory_files import Killed, MemoryFiles, PowerLoss

ROOT = Path("/state")
LOSSES = [
    PowerLoss(keeps_names=names, keeps_data=lambda path, keep=data: keep, unwritten_is_empty=empty)  # type: ignore[misc]
    for names in (False, True)
    for data in (False, True)
    for empty in (False, True)
]


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_durable(path, b"old")
    write_durable(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_a_key_is_never_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    write_durable(path, b"secret", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_in_the_scratch_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"keep")
    (tmp_path / ".state.json.tmp").symlink_to(victim)
    with pytest.raises(StorageFaultError):
        write_durable(tmp_path / "state.json", b"new")
    assert victim.read_bytes() == b"keep"


def test_a_missing_folder_is_a_storage_fault(tmp_path: Path) -> None:
    with pytest.raises(StorageFaultError, match="absent"):
        write_durable(tmp_path / "absent" / "state.json", b"new")


def test_a_removed_file_may_be_removed_again(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_durable(path, b"old")
    remove_durable(path)
    remove_durable(path)
    assert not path.exists()


def test_sweeping_takes_scratch_files_only(tmp_path: Path) -> None:
    for name in (".a.tmp", "a", ".hidden", "b.tmp"):
        (tmp_path / name).write_bytes(b"")
    sweep_scratch(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".hidden", "a", "b.tmp"]


def test_a_full_disk_leaves_the_old_content_and_no_scratch_file() -> None:
    files = MemoryFiles(ROOT, capacity_bytes=10)
    write_durable(ROOT / "state", b"old", files=files)
    with pytest.raises(StorageFullError):
        write_durable(ROOT / "state", bytes(20), files=files)
    assert files.entries(ROOT) == ["state"]
    assert files.content(ROOT / "state") == b"old"
    assert files.open_handles == 0


def _killed_write(kill_at: int, tears: bool) -> tuple[MemoryFiles, bool]:
    files = MemoryFiles(ROOT)
    write_durable(ROOT / "state", b"the old content", files=files)
    files.calls, files.kill_at, files.tears_writes = 0, kill_at, tears
    try:
        write_durable(ROOT / "state", b"the new content", files=files)
    except Killed:
        return files, False
    return files, True


@pytest.mark.parametrize("tears", [False, True])
def test_a_kill_at_any_boundary_leaves_old_or_new(tears: bool) -> None:
    kill_at, finished = 0, False
    while not finished:
        files, finished = _killed_write(kill_at, tears)
        files.restart()
        assert files.content(ROOT / "state") in (b"the old content", b"the new content")
        kill_at += 1
    assert kill_at > 4


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_of_power_at_any_boundary_leaves_old_or_new(loss: PowerLoss) -> None:
    kill_at, finished = 0, False
    while not finished:
        files, finished = _killed_write(kill_at, tears=False)
        files.lose_power(loss)
        allowed = (b"the new content",) if finished else (b"the old content", b"the new content")
        assert files.content(ROOT / "state") in allowed
        kill_at += 1
