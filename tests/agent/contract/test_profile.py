"""A profile's document: what people write about a class of devices."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from packhorse_agent.contract.profile import Profile


def plain_profile(**changes: Any) -> dict[str, Any]:
    """A valid profile as plain tables, which a test breaks in one place."""
    return {
        "name": "my-board",
        "title": "My board",
        "compatible": {"architectures": ["aarch64"], "operating_systems": ["linux"]},
        "runtimes": [{"name": "onnxruntime", "minimum_version": "1.20"}],
        "recipe": {"name": "fp32", "reason": "because"},
        "threads": 4,
        "budget": {"memory_mib": 512, "storage_mib": 512},
        "thermal": {"warm_c": 80, "critical_c": 90},
        **changes,
    }


def test_the_least_that_makes_a_profile() -> None:
    profile = Profile.model_validate(plain_profile())
    assert profile.power_sources == ()
    assert not profile.detection.android
    assert profile.compatible.minimum_python == "3.10"


def test_a_profile_reads_back() -> None:
    power = [{"kind": "ina3221", "scope": "module", "labels": ["VDD_IN"]}]
    profile = Profile.model_validate(plain_profile(power_sources=power))
    assert Profile.model_validate_json(profile.model_dump_json()) == profile


BROKEN: dict[str, dict[str, Any]] = {
    "an unknown key": {"colour": "red"},
    "an unknown key inside": {"budget": {"memory_mib": 512, "storage_mib": 512, "disk": 1}},
    "a name with capitals": {"name": "MyBoard"},
    "no title": {"title": ""},
    "no architecture": {"compatible": {"architectures": [], "operating_systems": ["linux"]}},
    "an unknown architecture": {"compatible": {"architectures": ["mips"], "operating_systems": ["linux"]}},
    "no runtime": {"runtimes": []},
    "an unknown runtime": {"runtimes": [{"name": "abacus", "minimum_version": "1"}]},
    "a minimum version in words": {"runtimes": [{"name": "onnxruntime", "minimum_version": "new"}]},
    "an unknown recipe": {"recipe": {"name": "int8", "reason": "because"}},
    "a recipe without a reason": {"recipe": {"name": "fp32", "reason": ""}},
    "no thread": {"threads": 0},
    "no memory": {"budget": {"memory_mib": 0, "storage_mib": 512}},
    "an unknown power source": {"power_sources": [{"kind": "sun", "scope": "board"}]},
    "critical before warm": {"thermal": {"warm_c": 90, "critical_c": 80}},
    "an endless temperature": {"thermal": {"warm_c": 90, "critical_c": float("inf")}},
}


@pytest.mark.parametrize("changes", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_profile_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Profile.model_validate(plain_profile(**changes))
