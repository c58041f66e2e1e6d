"""The log of the broker: bounded, and quoted from the right place."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse_host.broker.log import BrokerLog


@pytest.fixture
def log(tmp_path: Path) -> BrokerLog:
    return BrokerLog(tmp_path / "broker.log")


def test_without_a_file_nothing_was_said(log: BrokerLog) -> None:
    assert log.end() == 0
    assert log.since(0) == ""
    assert "said nothing" in log.tail(0)
    log.rotate()


def test_only_what_came_after_is_quoted(log: BrokerLog) -> None:
    log.path.write_text("before\n")
    offset = log.end()
    with log.path.open("a") as file:
        file.write("\n".join(str(number) for number in range(9)) + "\n")
    assert log.tail(offset, lines=2) == "\n  7\n  8"
    assert "before" not in log.since(offset)


def test_a_long_log_is_quoted_by_its_end_and_bad_bytes_do_not_matter(log: BrokerLog) -> None:
    log.path.write_bytes(b"x" * 200_000 + b"\n\xff end\n")
    said = log.since(0)
    assert len(said) <= 64 * 1024
    assert said.endswith("� end\n")


def test_a_log_that_has_grown_is_set_aside_while_it_is_written_to(log: BrokerLog, tmp_path: Path) -> None:
    with log.path.open("ab") as writer:
        writer.write(b"old\n" * (3 * 1024 * 1024))
        writer.flush()
        log.rotate()
        assert log.end() == 0
        writer.write(b"new\n")
    assert log.path.read_bytes() == b"new\n"
    assert (tmp_path / "broker.log.1").stat().st_size == 12 * 1024 * 1024
