"""The boot counter only goes up, whatever happens to its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse_agent.store.errors import StorageFullError
from packhorse_agent.telemetry.boot import next_boot
from tests.fakes.disk import FullFiles, Killed, MortalFiles


def test_the_first_start_is_one_and_each_next_one_more(tmp_path: Path) -> None:
    assert [next_boot(tmp_path / "boot") for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"7", b'{"boot": 0}', b'{"boot": -4}', b"\xff\x00", b"{"])
def test_an_unreadable_counter_is_set_aside_and_goes_on_above(tmp_path: Path, content: bytes) -> None:
    """Higher than any count of starts, so that no report looks like a replay."""
    path = tmp_path / "boot"
    path.write_bytes(content)
    assert next_boot(path, lambda: 1_800_000_000.5) == 1_800_000_000
    assert next_boot(path) == 1_800_000_001
    assert (tmp_path / "boot.unreadable-1").read_bytes() == content


def test_a_clock_before_its_time_still_gives_a_number(tmp_path: Path) -> None:
    path = tmp_path / "boot"
    path.write_bytes(b"?")
    assert next_boot(path, lambda: -5.0) == 1


def test_no_number_without_storing_it(tmp_path: Path) -> None:
    path = tmp_path / "boot"
    next_boot(path)
    with pytest.raises(StorageFullError):
        next_boot(path, files=FullFiles(0))
    assert next_boot(path) == 2


def test_a_kill_at_any_boundary_never_repeats_a_number(tmp_path: Path) -> None:
    path = tmp_path / "boot"
    given = [next_boot(path)]
    for dies_at in range(1, 20):
        files = MortalFiles(dies_at)
        try:
            given.append(next_boot(path, files=files))
        except Killed:
            given.append(next_boot(path))
        else:
            assert dies_at > 4
    assert given == sorted(set(given))
