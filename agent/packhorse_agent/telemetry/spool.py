"""Reports that wait for the fleet to store them: numbered, durable, bounded in bytes and age.

One file per report, `BOOT-SEQUENCE.report`, written, synced, renamed and the folder synced before `append`
returns: a kill or a loss of power loses nothing that was appended. An acknowledged file is removed without
a sync: should it come back, it is sent once more and the fleet, which keeps the highest (boot, sequence) of
each stream, counts it once. Content and number are fixed when the report is appended; it is signed when it is
sent, so that a backlog survives a new device key. Ed25519 is deterministic: every sending has the same bytes.

Losses. What is given up (too many bytes, too old, damaged) is counted in windows, and the next telemetry
window carries the count. `losses.json` makes that exact over kills: it is written before anything is removed
(`through`: all up to here is counted), and names the report that carries the count before that report is
written (`into`: where that one exists, the count is delivered). One that was sent, whose answer never came,
and that is then given up counts as lost though the fleet may have it: the count is never too low.

Once open, a spool never raises: where the disk fails, it logs, loses reports and counts them in memory.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, takewhile
from pathlib import Path

from pydantic import ValidationError

from packhorse_agent.contract.base import WireDocument, canonical_json
from packhorse_agent.contract.envelope import MAGIC, SIGNATURE_BYTES
from packhorse_agent.contract.limits import REPORT_MAX_BYTES, REPORT_MAX_ITEMS
from packhorse_agent.contract.messages import Report, ReportItem, Stream, TelemetryWindow
from packhorse_agent.errors import EnvironmentFaultError
from packhorse_agent.store.durable import sweep_scratch, write_durable
from packhorse_agent.store.errors import StorageFullError
from packhorse_agent.store.files import OS_FILES, Files
from packhorse_agent.store.state_file import StateFile
from packhorse_agent.telemetry.record import OVERHEAD_BYTES, Record, decode_record, encode_record

Key = tuple[int, int]
"""(boot, sequence), the order in which reports are sent."""

LOSSES_FILE = "losses.json"
_NAME = re.compile(r"^([0-9]{10})-([0-9]{10})\.report$")
_BLOCK_BYTES = 4096
_CONTENT_MAX_BYTES = REPORT_MAX_BYTES - len(MAGIC) - SIGNATURE_BYTES

_log = logging.getLogger(__name__)


class Losses(WireDocument):
    """Windows that were given up and not reported yet."""

    through: tuple[int, int] = (0, 0)
    windows: int = 0
    into: tuple[int, int] | None = None


@dataclass(frozen=True)
class Origin:
    """Whose reports these are, and of which start of the agent."""

    fleet: str
    device_id: str
    boot: int


@dataclass(frozen=True)
class Limits:
    """How much one stream may keep; bytes are counted as the disk does, in blocks of 4 KiB."""

    max_bytes: int
    max_age_s: float


@dataclass(frozen=True)
class _Entry:
    key: Key
    size_bytes: int
    appended_s: float | None
    """On the monotonic clock; None for reports of an earlier start."""


class Spool:
    """The waiting reports of one stream in one folder; one instance at a time."""

    def __init__(
        self,
        folder: Path,
        stream: Stream,
        limits: Limits,
        origin: Origin,
        *,
        clock: Callable[[], float],
        wall: Callable[[], datetime],
        files: Files = OS_FILES,
    ) -> None:
        """Open the spool and bring it in order after whatever ended the last run.

        Raises:
            StorageFaultError: the folder cannot be made or read.
        """
        self._folder = folder
        self._stream: Stream = stream
        self._limits = limits
        self._origin = origin
        self._clock = clock
        self._wall = wall
        self._files = files
        self._entries: deque[_Entry] = deque()
        self._size_bytes = 0
        self._sequence = 0
        self._gave_up = False
        files.make_folder(folder)
        sweep_scratch(folder, files)
        self._losses_file = StateFile(folder / LOSSES_FILE, Losses, files=files)
        self._losses = Losses()
        self._recover()

    def __len__(self) -> int:
        """How many reports wait."""
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """What the waiting reports take on the disk."""
        return self._size_bytes

    @property
    def lost_windows(self) -> int:
        """Windows that were given up and are not reported yet."""
        return self._losses.windows

    def append(self, items: Sequence[ReportItem]) -> None:
        """Keep `items`, in one report or in as many as they need; durable on return.

        On a full disk the older half is given up for them. Where that does not help, where the disk fails,
        and where a single item is larger than a report may be, items are logged and counted as lost.
        """
        pending = deque(_groups(items))
        while pending:
            group = pending.popleft()
            report = self._report(group)
            if len(canonical_json(report)) <= _CONTENT_MAX_BYTES:
                self._keep(report)
            elif len(group) > 1:
                half = len(group) // 2
                pending.extendleft((group[half:], group[:half]))
            else:
                self._lose_unkept(group, "it is larger than a report may be")
        self._trim()

    def next_report(self) -> Report | None:
        """The oldest report that waits, earlier boots first; None when there is none.

        What is unreadable, or was written for another fleet or device, is given up.
        """
        self._trim()
        while self._entries:
            report = self._load(self._entries[0])
            if report is not None:
                return report
            self._give_up(1, "unreadable, or of another fleet or device")
        return None

    def acknowledge(self, boot: int, sequence: int) -> None:
        """The fleet has stored all reports up to and including this one."""
        while self._entries and self._entries[0].key <= (boot, sequence):
            self._remove_oldest()

    def _recover(self) -> None:
        names = [match for name in self._files.entries(self._folder) if (match := _NAME.match(name))]
        for match in names:
            key = (int(match[1]), int(match[2]))
            facts = self._files.facts(self._folder / match[0])
            self._add(_Entry(key, _on_disk(facts.size_bytes if facts else 0), None))
        self._losses = self._losses_file.load() or Losses()
        if self._losses.into in {entry.key for entry in self._entries}:
            self._save_losses(Losses(through=self._losses.through))
        while self._entries and self._entries[0].key <= self._losses.through:
            self._remove_oldest()
        self._trim()

    def _report(self, items: Sequence[ReportItem]) -> Report:
        origin = self._origin
        return Report(
            fleet=origin.fleet,
            device_id=origin.device_id,
            stream=self._stream,
            boot=origin.boot,
            sequence=self._sequence + 1,
            items=tuple(items),
        )

    def _keep(self, report: Report) -> None:
        try:
            try:
                self._write(report)
            except StorageFullError as error:
                self._give_up((len(self._entries) + 1) // 2, str(error))
                self._write(report)
        except EnvironmentFaultError as error:
            self._lose_unkept(report.items, str(error))

    def _write(self, report: Report) -> None:
        losses = self._losses
        reported = _with_losses(report, losses.windows)
        key = (report.boot, report.sequence)
        if reported is not report:
            self._save_losses(losses.model_copy(update={"into": key}))
        data = encode_record(Record(_weight(reported.items), self._unix_s(), canonical_json(reported)))
        write_durable(self._path(key), data, files=self._files)
        self._sequence = report.sequence
        self._add(_Entry(key, _on_disk(len(data)), self._clock()))
        if reported is not report:
            self._save_losses(Losses(through=losses.through))

    def _trim(self) -> None:
        """Give up the oldest until the rest fits; the newest stays whatever its size."""
        excess_bytes, count = self._size_bytes - self._limits.max_bytes, 0
        while excess_bytes > 0 and count < len(self._entries) - 1:
            excess_bytes -= self._entries[count].size_bytes
            count += 1
        self._give_up(count, f"over {self._limits.max_bytes} bytes")
        old = takewhile(lambda entry: self._age_s(entry) > self._limits.max_age_s, self._entries)
        self._give_up(sum(1 for _ in old), f"older than {self._limits.max_age_s:.0f} s")

    def _give_up(self, count: int, reason: str) -> None:
        victims = list(islice(self._entries, count))
        if not victims:
            return
        level = logging.DEBUG if self._gave_up else logging.WARNING
        _log.log(level, "%s reports of stream %s given up: %s", len(victims), self._stream, reason)
        self._gave_up = True
        lost = sum(self._lost_with(entry) for entry in victims)
        if lost:
            windows = self._losses.windows + lost
            self._save_losses(Losses(through=victims[-1].key, windows=windows))
        for _ in victims:
            self._remove_oldest()

    def _lose_unkept(self, items: Sequence[ReportItem], reason: str) -> None:
        _log.error("%s items of stream %s not kept: %s", len(items), self._stream, reason)
        windows = self._losses.windows + _weight(items)
        self._save_losses(self._losses.model_copy(update={"windows": windows, "into": None}))

    def _save_losses(self, losses: Losses) -> None:
        if losses == self._losses:
            return
        self._losses = losses
        try:
            self._losses_file.save(losses)
        except EnvironmentFaultError as error:
            _log.error("the count of losses is kept in memory only: %s", error)

    def _lost_with(self, entry: _Entry) -> int:
        record = self._read_record(entry)
        if record is None:
            return 1 if self._stream == "telemetry" else 0
        return record.weight

    def _load(self, entry: _Entry) -> Report | None:
        record = self._read_record(entry)
        if record is None:
            return None
        try:
            report = Report.model_validate_json(record.content)
        except ValidationError:
            return None
        ours = (report.fleet, report.device_id) == (self._origin.fleet, self._origin.device_id)
        return report if ours and (report.boot, report.sequence) == entry.key else None

    def _read_record(self, entry: _Entry) -> Record | None:
        try:
            handle = self._files.open(self._path(entry.key))
            try:
                return decode_record(self._files.read(handle, REPORT_MAX_BYTES + OVERHEAD_BYTES, 0))
            finally:
                self._files.close(handle)
        except EnvironmentFaultError as error:
            _log.error("report %s-%s cannot be read: %s", *entry.key, error)
            return None

    def _age_s(self, entry: _Entry) -> float:
        if entry.appended_s is not None:
            return self._clock() - entry.appended_s
        record = self._read_record(entry)
        return float(self._unix_s() - record.written_unix_s) if record else 0.0

    def _unix_s(self) -> int:
        return max(int(self._wall().timestamp()), 0)

    def _add(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._size_bytes += entry.size_bytes

    def _remove_oldest(self) -> None:
        entry = self._entries.popleft()
        self._size_bytes -= entry.size_bytes
        try:
            self._files.remove(self._path(entry.key))
        except EnvironmentFaultError as error:
            _log.error("report %s-%s stays on the disk until the next start: %s", *entry.key, error)

    def _path(self, key: Key) -> Path:
        return self._folder / f"{key[0]:010d}-{key[1]:010d}.report"


def _groups(items: Sequence[ReportItem]) -> list[Sequence[ReportItem]]:
    return [items[at : at + REPORT_MAX_ITEMS] for at in range(0, len(items), REPORT_MAX_ITEMS)]


def _weight(items: Sequence[ReportItem]) -> int:
    return sum(1 + item.dropped_windows for item in items if isinstance(item, TelemetryWindow))


def _with_losses(report: Report, windows: int) -> Report:
    """The report with the count in its first telemetry window; the same where there is nothing to carry."""
    for at, item in enumerate(report.items):
        if windows and isinstance(item, TelemetryWindow):
            carrying = item.model_copy(update={"dropped_windows": item.dropped_windows + windows})
            items = (*report.items[:at], carrying, *report.items[at + 1 :])
            return report.model_copy(update={"items": items})
    return report


def _on_disk(size_bytes: int) -> int:
    return -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES
