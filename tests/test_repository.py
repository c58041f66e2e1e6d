"""The repository agrees with itself: generated files, version, licence of names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from generated_files import REPOSITORY, generated_files
from packhorse_agent import __version__
from packhorse_agent.toml_files import parse_toml


@pytest.mark.parametrize("path", generated_files(), ids=lambda path: path.name)
def test_a_generated_file_is_up_to_date(path: Path) -> None:
    """Otherwise run scripts/generate."""
    assert path.read_text() == generated_files()[path]


def test_the_schema_describes_every_key_of_a_profile() -> None:
    schema = json.loads((REPOSITORY / "firmware_profiles/profile.schema.json").read_text())
    for path in (REPOSITORY / "firmware_profiles").glob("*.toml"):
        assert parse_toml(path).keys() <= schema["properties"].keys()


def test_the_version_is_said_once_in_the_code_and_once_in_the_package() -> None:
    assert parse_toml(REPOSITORY / "pyproject.toml")["project"]["version"] == __version__
