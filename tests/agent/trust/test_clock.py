"""Time never goes back behind what was signed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from packhorse_agent.trust.clock import DurableClock

SIGNED = datetime(2026, 3, 1, tzinfo=timezone.utc)
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
LATER = SIGNED + timedelta(days=3)


def clock_at(path: Path, system: datetime) -> DurableClock:
    return DurableClock(path / "clock", lambda: system)


def test_without_a_floor_it_is_the_system_clock(tmp_path: Path) -> None:
    clock = clock_at(tmp_path, EPOCH)
    assert clock.now() == EPOCH
    assert clock.is_set


def test_a_floor_survives_a_restart_in_1970(tmp_path: Path) -> None:
    clock_at(tmp_path, LATER).advance(SIGNED)
    clock = clock_at(tmp_path, EPOCH)
    assert clock.now() == SIGNED
    assert not clock.is_set
    assert clock_at(tmp_path, LATER).now() == LATER
    assert clock_at(tmp_path, LATER).is_set


def test_a_floor_is_never_lowered(tmp_path: Path) -> None:
    clock = clock_at(tmp_path, EPOCH)
    clock.advance(SIGNED)
    clock.advance(EPOCH)
    assert clock.now() == SIGNED
    assert clock_at(tmp_path, EPOCH).now() == SIGNED


@pytest.mark.parametrize("content", [b"", b"{}", b'{"floor": "soon"}', b'{"floor": "2026-03-01T00:00:00"}'])
def test_a_damaged_floor_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clock").write_bytes(content)
    assert clock_at(tmp_path, EPOCH).now() == EPOCH
