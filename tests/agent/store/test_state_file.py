"""State that must never stop the agent from starting."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse_agent.contract.base import WireDocument
from packhorse_agent.store import state_file
from packhorse_agent.store.errors import StorageFaultError
from packhorse_agent.store.state_file import StateFile
from tests.fakes.memory_files import MemoryFiles

ROOT = Path("/state")


class Note(WireDocument):
    text: str
    number: int = 0


def test_nothing_saved_loads_as_none(tmp_path: Path) -> None:
    assert StateFile(tmp_path / "note.json", Note).load() is None


@given(text=st.text(), number=st.integers())
def test_what_was_saved_is_loaded(text: str, number: int) -> None:
    state = StateFile(ROOT / "note.json", Note, files=MemoryFiles(ROOT))
    state.save(Note(text=text, number=number))
    assert state.load() == Note(text=text, number=number)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"text": 1}', b"\xff\xfe", b"null", b'{"text": "a'])
def test_an_unreadable_file_is_set_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "note.json"
    path.write_bytes(content)
    state = StateFile(path, Note)
    assert state.load() is None
    assert (tmp_path / "note.json.unreadable-1").read_bytes() == content
    assert "set aside" in caplog.text
    state.save(Note(text="again"))
    assert state.load() == Note(text="again")


def test_each_unreadable_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    for number in (1, 2, 3):
        path.write_bytes(b"?")
        assert StateFile(path, Note).load() is None
        assert (tmp_path / f"note.json.unreadable-{number}").exists()


def test_an_enormous_file_is_set_aside_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_file, "STATE_FILE_MAX_BYTES", 10)
    (tmp_path / "note.json").write_bytes(b'{"text": "longer"}')
    assert StateFile(tmp_path / "note.json", Note).load() is None
    assert (tmp_path / "note.json.unreadable-1").exists()


class _FailingRead(MemoryFiles):
    code = errno.EIO

    def read(self, handle: int, size_bytes: int, offset: int) -> bytes:
        raise StorageFaultError("reading", self.code)


def test_a_bad_sector_is_set_aside() -> None:
    files = _FailingRead(ROOT)
    files.put(ROOT / "note.json", b"{}")
    assert StateFile(ROOT / "note.json", Note, files=files).load() is None
    assert files.entries(ROOT) == ["note.json.unreadable-1"]


def test_missing_rights_are_an_error_and_lose_nothing() -> None:
    files = _FailingRead(ROOT)
    files.code = errno.EACCES
    files.put(ROOT / "note.json", b"{}")
    with pytest.raises(StorageFaultError):
        StateFile(ROOT / "note.json", Note, files=files).load()
    assert files.entries(ROOT) == ["note.json"]


def test_rights_are_kept(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "note.json", Note, mode=0o600)
    state.save(Note(text="secret"))
    assert (tmp_path / "note.json").stat().st_mode & 0o777 == 0o600
