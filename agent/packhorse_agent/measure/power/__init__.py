"""Power and energy: readers behind one protocol, a meter that integrates, a sampler that feeds it."""

from __future__ import annotations

from packhorse_agent.measure.power.meter import EnergyMeter
from packhorse_agent.measure.power.readings import (
    CounterSample,
    PowerReader,
    PowerSample,
    Sample,
    Unavailable,
    ZoneCounter,
)
from packhorse_agent.measure.power.sampler import PowerSampler
from packhorse_agent.measure.power.sources import find_reader, probe

__all__ = [
    "CounterSample",
    "EnergyMeter",
    "PowerReader",
    "PowerSample",
    "PowerSampler",
    "Sample",
    "Unavailable",
    "ZoneCounter",
    "find_reader",
    "probe",
]
