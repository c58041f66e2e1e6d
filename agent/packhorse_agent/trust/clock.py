"""The time for checks of expiry: never before what signed metadata has already shown."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

from packhorse_agent.contract.base import WireDocument
from packhorse_agent.store.state_file import StateFile

SKEW = timedelta(hours=1)
"""So far a device's clock may be behind that of the fleet's owner and still counts as set."""

_log = logging.getLogger(__name__)


class _Floor(WireDocument):
    floor: datetime


def utc_now() -> datetime:
    """The system clock, aware, UTC."""
    return datetime.now(timezone.utc)


class DurableClock:
    """`max(system clock, durable floor)`.

    Small devices start in 1970 until the network sets their clock. The floor is the newest date that keys
    kept offline have signed (`TrustedView.issued_at`): a stolen online key cannot push the time ahead.
    """

    def __init__(self, path: Path, system: Callable[[], datetime] = utc_now) -> None:
        self._system = system
        self._file = StateFile(path, _Floor)
        saved = self._file.load()
        self._floor = saved.floor.astimezone(timezone.utc) if saved and saved.floor.tzinfo else None

    def now(self) -> datetime:
        """The time, aware, UTC."""
        system = self._system()
        return system if self._floor is None else max(system, self._floor)

    @property
    def is_set(self) -> bool:
        """False while the system clock is far behind what has been signed already."""
        return self._floor is None or self._system() >= self._floor - SKEW

    def advance(self, floor: datetime) -> None:
        """Raise the floor, durably; an earlier one changes nothing.

        Raises:
            StorageFullError, StorageFaultError: it could not be kept; the old floor stays.
        """
        if self._floor is None or floor > self._floor:
            self._file.save(_Floor(floor=floor))
            self._floor = floor
