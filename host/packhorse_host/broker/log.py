"""The broker's log: what it said since a moment, and a bound on its size."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

_ROTATE_BYTES: Final = 8 * 1024 * 1024
_READ_MAX_BYTES: Final = 64 * 1024


class BrokerLog:
    """A log file that another process appends to (with O_APPEND, so truncating it is safe)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def end(self) -> int:
        """The offset at which the next line will be."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def since(self, offset: int) -> str:
        """What was written from an offset on; the last 64 KiB of it."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(offset, self.end() - _READ_MAX_BYTES))
                return file.read(_READ_MAX_BYTES).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def tail(self, offset: int, lines: int = 6) -> str:
        """The last lines written from an offset on, each indented, for an error message."""
        said = self.since(offset).strip().splitlines()[-lines:]
        return "".join(f"\n  {line}" for line in said) or "\n  (it said nothing)"

    def rotate(self) -> None:
        """Keep one older part and begin anew when the log has grown long."""
        if self.end() < _ROTATE_BYTES:
            return
        shutil.copyfile(self.path, self.path.with_suffix(".log.1"))
        os.truncate(self.path, 0)
