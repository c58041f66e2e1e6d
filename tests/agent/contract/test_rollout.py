"""The rollouts document reads back, and holds only what devices can follow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from packhorse_agent.contract.base import canonical_json
from packhorse_agent.contract.rollout import Assignments, Rollout, RolloutsDocument, assignments_target
from tests.agent.contract.strategies import assignments, documents

BUNDLE = {"target": "bundles/m/1.0/p/fp32/manifest.json", "sha256": "0" * 64, "size_bytes": 100}


def plain_rollout(**changes: Any) -> dict[str, Any]:
    """A valid rollout as JSON, which a test breaks in one place."""
    return {
        "id": "r1",
        "slot": "detector",
        "model": "m",
        "version": "1.0",
        "generation": 1,
        "state": "active",
        "salt": "0" * 32,
        "bundles": {"raspberry-pi-5": BUNDLE},
        "soak_s": 60,
        **changes,
    }


@given(documents)
def test_a_document_reads_back(document: RolloutsDocument) -> None:
    assert RolloutsDocument.model_validate_json(canonical_json(document)) == document


@given(assignments)
def test_assignments_read_back(shard: Assignments) -> None:
    assert Assignments.model_validate_json(canonical_json(shard)) == shard


def test_a_new_rollout_reaches_nobody() -> None:
    rollout = Rollout.model_validate(plain_rollout())
    assert (rollout.share_ppm, rollout.included_tags) == (0, ())


def test_every_shard_has_its_own_target() -> None:
    targets = [assignments_target(shard) for shard in range(16)]
    assert len(set(targets)) == 16
    assert targets[10] == "assignments/a.json"


BROKEN: dict[str, dict[str, Any]] = {
    "an id with a slash": {"id": "a/b"},
    "generation zero": {"generation": 0},
    "an unknown state": {"state": "done"},
    "a short salt": {"salt": "00"},
    "no bundle": {"bundles": {}},
    "a profile that is no name": {"bundles": {"Raspberry Pi": BUNDLE}},
    "a manifest over one chunk": {"bundles": {"p": {**BUNDLE, "size_bytes": 65537}}},
    "a share over all": {"share_ppm": 1_000_001},
    "a negative share": {"share_ppm": -1},
    "a negative soak": {"soak_s": -1},
    "an endless soak": {"soak_s": float("inf")},
    "no time to download": {"download_deadline_s": 0},
    "a tag that is no name": {"included_tags": ["Canary"]},
    "a selector with a bad profile": {"selector": {"profiles": ["a b"]}},
}


@pytest.mark.parametrize("changes", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_rollout_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Rollout.model_validate(plain_rollout(**changes))
