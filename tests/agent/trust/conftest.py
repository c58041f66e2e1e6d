"""Fixtures for the tests of trust."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.trust.devices import Device
from tests.agent.trust.simulator import (
    FleetSimulator,
)


@pytest.fixture
def fleet() -> FleetSimulator:
    return FleetSimulator()


@pytest.fixture
def device(fleet: FleetSimulator, tmp_path: Path) -> Device:
    return Device(fleet, tmp_path)
