"""Feeds the meter at irregular moments, so that sampling never locks to the frame rate of an application.

A thread of its own: reading a monitor over I2C takes milliseconds, ten times a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import Random

from packhorse_agent.contract.messages import Energy
from packhorse_agent.measure.files import ReadFailedError
from packhorse_agent.measure.power.meter import EnergyMeter
from packhorse_agent.measure.power.readings import PowerReader, Unavailable

JITTER = 0.5
"""Each pause is drawn evenly from the mean interval times 1 ± this."""


class PowerSampler:
    """Samples one reader; `take` may be called from any thread."""

    def __init__(
        self,
        reader: PowerReader,
        clock: Callable[[], float],
        random: Random,
        interval_s: float | None = None,
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._random = random
        self._interval_s = interval_s or reader.interval_s
        self._meter = EnergyMeter(reader.source, reader.scope)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="power-sampler", daemon=True)

    @property
    def source(self) -> str:
        """The reader's name, such as `ina3221:VDD_IN`."""
        return self._reader.source

    def start(self) -> None:
        """Begin to sample, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def sample(self) -> None:
        """Read once, now; a failure is noted in the meter."""
        with self._lock:
            try:
                self._meter.add(self._reader.read(self._clock()))
            except ReadFailedError as error:
                self._meter.missed(str(error))

    def next_pause_s(self) -> float:
        """How long to wait for the next sample."""
        return self._interval_s * self._random.uniform(1 - JITTER, 1 + JITTER)

    def take(self, start_s: float, end_s: float) -> Energy | Unavailable:
        """Energy between two moments, of which the later one is now or past."""
        self.sample()
        with self._lock:
            return self._meter.take(start_s, end_s)

    def _run(self) -> None:
        self.sample()
        while not self._stopping.wait(self.next_pause_s()):
            self.sample()
