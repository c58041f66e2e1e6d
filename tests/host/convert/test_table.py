"""The table of conversions, as data."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from packhorse_host.convert.convert import _ROUTES
from packhorse_host.convert.environments import ENVIRONMENTS
from packhorse_host.convert.model import FORMATS
from packhorse_host.convert.sources import SourceKind
from packhorse_host.convert.table import RUNTIMES, SOURCES, TABLE, Refused, Works


def test_every_kind_of_source_meets_every_runtime() -> None:
    assert set(SOURCES) == set(get_args(SourceKind))
    assert set(TABLE) == set(itertools.product(SOURCES, RUNTIMES))


@pytest.mark.parametrize("key", TABLE, ids="→".join)
def test_a_cell_says_how_or_why_not(key: tuple[SourceKind, str]) -> None:
    cell = TABLE[key]  # type: ignore[index]
    if isinstance(cell, Refused):
        assert cell.reason and cell.instead
    else:
        assert cell.how and cell.route in _ROUTES and set(cell.environments) <= set(ENVIRONMENTS)
        assert key[1] in FORMATS


def test_every_route_is_taken() -> None:
    assert {cell.route for cell in TABLE.values() if isinstance(cell, Works)} == set(_ROUTES)
