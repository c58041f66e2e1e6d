"""The operating system's files behind the port."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from packhorse_agent.store.errors import StorageFaultError, StorageFullError
from packhorse_agent.store.files import OS_FILES, FileFacts


def test_reads_and_writes_at_an_offset(tmp_path: Path) -> None:
    handle = OS_FILES.create(tmp_path / "f", 0o640)
    OS_FILES.reserve(handle, 10)
    OS_FILES.write(handle, b"abc", 4)
    OS_FILES.sync(handle)
    assert OS_FILES.read(handle, 100, 3) == b"\0abc\0\0\0"
    assert OS_FILES.read(handle, 5, 10) == b""
    OS_FILES.close(handle)
    facts = OS_FILES.facts(tmp_path / "f")
    assert facts and facts.size_bytes == 10


def test_to_begin_a_sync_changes_nothing_that_can_be_read(tmp_path: Path) -> None:
    handle = OS_FILES.create(tmp_path / "f", 0o640)
    OS_FILES.write(handle, b"abc" * 5000, 0)
    OS_FILES.begin_sync(handle, 0, 1 << 20)
    assert OS_FILES.read(handle, 20_000, 0) == b"abc" * 5000
    OS_FILES.close(handle)
    OS_FILES.begin_sync(handle, 0, 1)  # a hint never fails


def test_what_is_not_there_is_no_error_to_ask_for_or_remove(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert OS_FILES.facts(absent) is None
    assert OS_FILES.entries(absent) == []
    OS_FILES.remove(absent)
    OS_FILES.remove_folder(absent)


def test_a_folder_has_size_zero(tmp_path: Path) -> None:
    facts = OS_FILES.facts(tmp_path)
    assert isinstance(facts, FileFacts) and facts.size_bytes == 0


def test_an_operating_system_error_keeps_its_number(tmp_path: Path) -> None:
    with pytest.raises(StorageFaultError) as caught:
        OS_FILES.open(tmp_path / "absent")
    assert caught.value.errno == errno.ENOENT
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_and_over_quota_are_a_full_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    handle = OS_FILES.create(tmp_path / "f", 0o644)
    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(StorageFullError, match=str(tmp_path / "f")):
        OS_FILES.write(handle, b"x", 0)
    OS_FILES.close(handle)


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_without_preallocation_the_free_space_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    handle = OS_FILES.create(tmp_path / "f", 0o644)
    OS_FILES.reserve(handle, 1000)
    assert (tmp_path / "f").stat().st_size == 1000
    with pytest.raises(StorageFullError):
        OS_FILES.reserve(handle, 1 << 60)
    OS_FILES.close(handle)


def test_a_write_that_the_system_cuts_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, offset: whole(handle, data[:3], offset))
    handle = OS_FILES.create(tmp_path / "f", 0o644)
    OS_FILES.write(handle, b"0123456789", 0)
    OS_FILES.close(handle)
    assert (tmp_path / "f").read_bytes() == b"0123456789"
