"""What a person may do to rollouts, and what not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection

from packhorse_host.errors import ConfigError, ConflictError, NotFoundError, PackhorseError, RefusedError
from packhorse_host.fleet.database import Database, audit_break, load_audit, load_rollout, save_rollout
from packhorse_host.fleet.model import FINAL, RolloutProgress, RolloutRecord, RolloutSpec
from packhorse_host.fleet.rollouts import (
    abort_rollout,
    choose_bundles,
    make_spec,
    pause_rollout,
    resume_rollout,
    start_rollout,
)
from packhorse_host.repository import ReleaseInfo
from tests.host.fleet.conftest import Enrol
from tests.host.fleet.makers import PHONE, PI, SALT, bundle, bundles, spec

P = RolloutProgress
Act = Callable[[Connection], RolloutRecord]


@pytest.fixture
def fleet(database: Database, enrol: Enrol) -> Database:
    """Two devices, one of them a canary."""
    enrol("a", "canary")
    enrol("b")
    return database


def start(fleet: Database, order: RolloutSpec | None = None) -> RolloutRecord:
    with fleet.transaction() as connection:
        return start_rollout(connection, order or spec(), "me", 5.0)


def force(fleet: Database, progress: RolloutProgress) -> None:
    """Bring the first rollout into a state, as the controller might."""
    with fleet.transaction() as connection:
        current = load_rollout(connection, "first")
        save_rollout(connection, current.model_copy(update={"progress": progress}))


def stored(fleet: Database) -> tuple[RolloutRecord, list[str]]:
    with fleet.transaction() as connection:
        entries = load_audit(connection)
        assert audit_break(entries) is None
        return load_rollout(connection, "first"), [entry.text for entry in entries]


def refused(fleet: Database, act: Act, error: type[PackhorseError], text: str) -> None:
    """An act is refused, and nothing has changed."""
    before = stored(fleet)
    with pytest.raises(error, match=text), fleet.transaction() as connection:
        act(connection)
    assert stored(fleet) == before


def test_a_rollout_begins_with_its_first_phase_and_an_entry_in_the_log(fleet: Database) -> None:
    record = start(fleet)
    assert (record.progress, record.phase, record.generation) == (P.RUNNING, 0, 1)
    assert stored(fleet) == (record, ["start rollout first: detector 1.0"])


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({}, ConflictError, "already"),
        ({"id": "second"}, ConflictError, "rollout first is running in slot detector"),
        ({"id": "second", "bundles": bundles(profiles=(PHONE,))}, ConflictError, PHONE),
        ({"id": "second", "slot": "other", "bundles": bundles(profiles=(PHONE,))}, RefusedError, "canary"),
    ],
    ids=["same id", "same slot", "one profile in common", "selects nobody"],
)
def test_what_must_not_begin(
    fleet: Database, changes: dict[str, Any], error: type[PackhorseError], text: str
) -> None:
    start(fleet)
    refused(fleet, lambda connection: start_rollout(connection, spec(**changes), "me", 6.0), error, text)


def test_an_empty_phase_may_be_approved(fleet: Database) -> None:
    phone = bundles(profiles=(PHONE,))
    assert start(fleet, spec(bundles=phone, approve_empty=True)).progress is P.RUNNING


def test_another_slot_or_profile_is_no_conflict(fleet: Database, enrol: Enrol) -> None:
    enrol("phone", "canary", profile=PHONE)
    start(fleet, spec(bundles=bundles(profiles=(PI,))))
    start(fleet, spec(id="second", slot="wake-word"))
    start(fleet, spec(id="third", bundles=bundles(profiles=(PHONE,))))


@pytest.mark.parametrize("over", sorted(FINAL), ids=lambda one: one.value)
def test_after_the_end_of_one_the_next_may_begin(fleet: Database, over: RolloutProgress) -> None:
    start(fleet)
    force(fleet, over)
    assert start(fleet, spec(id="second")).spec.id == "second"


def test_pausing_and_resuming(fleet: Database) -> None:
    start(fleet)
    for _ in range(2):
        with fleet.transaction() as connection:
            assert pause_rollout(connection, "first", "me", 6.0).progress is P.PAUSED
    with fleet.transaction() as connection:
        resumed = resume_rollout(connection, "first", "me", 7.0, approve_empty=True)
    assert (resumed.progress, resumed.generation, resumed.reason) == (P.RUNNING, 2, "")
    assert resumed.spec.approve_empty
    assert resumed.phase_started_unix_s == 7.0
    assert stored(fleet)[1][1:] == ["pause rollout first", "resume rollout first"]


@pytest.mark.parametrize("how", [P.STOPPED, P.CANCELLED, P.REVERTED], ids=lambda one: one.value)
@pytest.mark.parametrize("before", [P.RUNNING, P.PAUSED], ids=lambda one: one.value)
def test_aborting_is_final_and_may_be_repeated(
    fleet: Database, before: RolloutProgress, how: RolloutProgress
) -> None:
    start(fleet)
    force(fleet, before)
    for _ in range(2):
        with fleet.transaction() as connection:
            assert abort_rollout(connection, "first", how, "me", 6.0).progress is how
    assert stored(fleet)[1][1:] == [f"{how.value} rollout first"]


@pytest.mark.parametrize("over", [P.COMPLETED, P.STOPPED, P.CANCELLED], ids=lambda one: one.value)
def test_what_has_ended_can_still_be_reverted(fleet: Database, over: RolloutProgress) -> None:
    start(fleet)
    force(fleet, over)
    with fleet.transaction() as connection:
        assert abort_rollout(connection, "first", P.REVERTED, "me", 6.0).progress is P.REVERTED


@pytest.mark.parametrize("over", sorted(FINAL), ids=lambda one: one.value)
def test_what_has_ended_is_neither_paused_nor_resumed(fleet: Database, over: RolloutProgress) -> None:
    start(fleet)
    force(fleet, over)
    refused(fleet, lambda at: pause_rollout(at, "first", "me", 6.0), ConflictError, over.value)
    refused(fleet, lambda at: resume_rollout(at, "first", "me", 6.0), ConflictError, over.value)


def test_an_end_does_not_become_a_softer_one(fleet: Database) -> None:
    start(fleet)
    force(fleet, P.REVERTED)
    for how in (P.STOPPED, P.CANCELLED):
        refused(
            fleet,
            lambda at, how=how: abort_rollout(at, "first", how, "me", 6.0),  # type: ignore[misc]
            ConflictError,
            "reverted already",
        )


def test_what_runs_is_not_resumed(fleet: Database) -> None:
    start(fleet)
    refused(fleet, lambda at: resume_rollout(at, "first", "me", 6.0), ConflictError, "running, not paused")


@pytest.mark.parametrize(
    "act",
    [
        lambda at: pause_rollout(at, "nosuch", "me", 6.0),
        lambda at: resume_rollout(at, "nosuch", "me", 6.0),
        lambda at: abort_rollout(at, "nosuch", P.STOPPED, "me", 6.0),
    ],
    ids=["pause", "resume", "abort"],
)
def test_what_is_not_there_is_not_found(fleet: Database, act: Act) -> None:
    start(fleet)
    refused(fleet, act, NotFoundError, "no rollout nosuch")


def release(profile: str = PI, recipe: str = "fp32", version: str = "1.0") -> ReleaseInfo:
    return ReleaseInfo("detector", version, profile, recipe, bundle(version, profile))


def test_one_bundle_is_chosen_for_each_profile() -> None:
    releases = [release(), release(PHONE), release(version="0.9"), release(PHONE, version="2.0")]
    assert choose_bundles(releases, "detector", "1.0", None) == bundles()


def test_several_recipes_for_a_profile_need_a_name() -> None:
    releases = [release(), release(recipe="static_wi8_ai8")]
    with pytest.raises(ConflictError, match="--recipe"):
        choose_bundles(releases, "detector", "1.0", None)
    assert choose_bundles(releases, "detector", "1.0", "fp32") == {PI: bundle()}


@pytest.mark.parametrize(
    ("model", "version", "recipe"),
    [("other", "1.0", None), ("detector", "9.9", None), ("detector", "1.0", "static_wi8_ai16")],
)
def test_what_is_not_published_is_not_found_and_what_is_is_named(
    model: str, version: str, recipe: str | None
) -> None:
    with pytest.raises(NotFoundError, match=r"published: detector 1\.0"):
        choose_bundles([release()], model, version, recipe)
    with pytest.raises(NotFoundError, match="nothing yet"):
        choose_bundles([], model, version, recipe)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"slot": "Not A Slot"}, "slot"),
        ({"id": "UPPER"}, "id"),
        ({"max_failure_percent": -1.0}, "max_failure_percent"),
        ({"on_failure": "panic"}, "on_failure"),
        ({"phases": ["a:share=10%", "b:share=5%"]}, "must not fall"),
        ({"phases": []}, "phases"),
        ({"phases": ["a:shape=10%"]}, "shape"),
    ],
)
def test_what_a_person_typed_wrong_is_a_wrong_setting(changes: dict[str, Any], text: str) -> None:
    typed = {
        "id": "first",
        "slot": "detector",
        "model": "detector",
        "version": "1.0",
        "salt": SALT,
        "bundles": bundles(),
        "phases": ["all:share=100%"],
        **changes,
    }
    with pytest.raises(ConfigError, match=text):
        make_spec(**typed)
