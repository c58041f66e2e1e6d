"""Fixtures for the tests of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.host.repository.bundles import make_bundle
from tests.host.repository.fleets import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")
