"""What the fleet's signed word makes of a device's slots: real metadata and trust, the pure slot machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from packhorse_agent.contract.messages import ProbeResult
from packhorse_agent.contract.rollout import Baseline, BundleRef, Rollout, RolloutsDocument, RolloutState
from packhorse_agent.contract.selection import DeviceFacts
from packhorse_agent.contract.states import DeploymentState, FailureReason
from packhorse_agent.deploy import events as ev
from packhorse_agent.deploy.director import LINGER_S, RETRY_PAUSE_S, SLOTS_MAX, Director
from packhorse_agent.deploy.machine import advance
from packhorse_agent.deploy.model import SlotState
from packhorse_agent.errors import ConfigError
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.store.errors import StorageFullError
from packhorse_agent.transfer import BlobSpec, Completed, Failed
from packhorse_agent.trust.clock import DurableClock
from packhorse_agent.trust.keeper import TrustKeeper
from tests.agent.trust.simulator import FLEET, NOW, FleetSimulator, describe, sha256

S = DeploymentState
DEVICE, PROFILE = "pi-1", "raspberry-pi-5"
PASSED = ProbeResult(
    passed=True,
    sqnr_db=None,
    agreement_percent=100.0,
    bit_exact=True,
    vectors=4,
    latency_p50_us=10.0,
    detail="",
)
WAY: tuple[tuple[DeploymentState, ev.Event], ...] = (
    (S.DOWNLOADING, ev.Fetched()),
    (S.VERIFYING, ev.Verified()),
    (S.PREPARING, ev.CandidateLoaded()),
    (S.PROBING, ev.CandidateProbed(PASSED)),
    (S.PROBING, ev.CandidateServing()),
    (S.ACTIVE, ev.Tick()),
)
SOAK_S = 5.0


class PureSlot:
    """The state machine alone: what a worker would say, the test says."""

    def __init__(self, slot: str) -> None:
        self.slot = slot
        self.state = SlotState(slot=slot)
        self.now_s = 0.0

    def handle(self, event: ev.Event) -> None:
        self.state = advance(self.state, event, self.now_s).state

    def bring_to(self, state: DeploymentState) -> None:
        for before, event in WAY:
            if self.at() is state:
                return
            if self.at() is before:
                self.now_s += SOAK_S
                self.handle(event)
        assert self.at() is state

    def at(self) -> DeploymentState | None:
        return self.state.deployment.state if self.state.deployment else None

    def why(self) -> FailureReason | None:
        return self.state.deployment.reason if self.state.deployment else None

    def version(self) -> str | None:
        return self.state.active.version if self.state.active else None

    def wanted(self) -> str | None:
        return self.state.deployment.attempt.version if self.state.deployment else None


@dataclass
class FakeDownloader:
    wanted: dict[str, BlobSpec] = field(default_factory=dict)

    def want(self, spec: BlobSpec) -> None:
        self.wanted[spec.sha256] = spec


class World:
    """A fleet that publishes, and one device."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = FleetSimulator()
        self.blobs = BlobStore(folder)
        self.downloader = FakeDownloader()
        self.slots: dict[str, PureSlot] = {}
        self.now = NOW
        self.now_s = 0.0
        self.director = self.new_director()

    def new_director(self) -> Director:
        (self.folder / "trust").mkdir(exist_ok=True)
        return Director(
            TrustKeeper(self.folder / "trust", self.fleet.roots[0], FLEET),
            self.blobs,
            self.downloader,  # type: ignore[arg-type]
            DeviceFacts(DEVICE, PROFILE, "0.1.0"),
            self.runner_for,  # type: ignore[arg-type]
            DurableClock(self.folder / "clock", lambda: self.now),
            lambda: self.now_s,
        )

    def runner_for(self, slot: str) -> PureSlot:
        return self.slots.setdefault(slot, PureSlot(slot))

    @property
    def slot(self) -> PureSlot:
        return self.slots["detector"]

    def sign(self, version: str, minimum: str = "") -> BundleRef:
        """A release key signs a manifest."""
        data = f"manifest of {version}".encode()
        path = f"bundles/detector/{version}/{PROFILE}/fp32/manifest.json"
        self.fleet.roles["model-detector"].targets[path] = describe(path, data)
        if minimum:
            self.fleet.roles["model-detector"].unrecognized_fields["packhorse_minimum_version"] = minimum
        return BundleRef(target=path, sha256=sha256(data), size_bytes=len(data))

    def document(self, *rollouts: Rollout, baselines: tuple[Baseline, ...] = ()) -> None:
        self.fleet.rollouts_document = RolloutsDocument(fleet=FLEET, rollouts=rollouts, baselines=baselines)

    def publish(self) -> bool:
        """Publish, offer to the device, evaluate as the supervisor would."""
        self.fleet.publish("rollouts", "model-detector")
        return self.offer(self.fleet.files())

    def offer(self, files: dict[str, bytes]) -> bool:
        fresh = self.director.offer(files)
        if fresh:
            self.evaluate()
        return fresh

    def evaluate(self) -> None:
        self.director.evaluate(self.slots)  # type: ignore[arg-type]

    def roll_out(self, version: str, state: RolloutState = RolloutState.ACTIVE, **changes: Any) -> None:
        self.document(rollout(version, self.sign(version), state=state, **changes))
        self.publish()


def rollout(version: str, bundle: BundleRef, **changes: Any) -> Rollout:
    fields: dict[str, Any] = {
        "id": f"r{version}",
        "slot": "detector",
        "model": "detector",
        "version": version,
        "generation": 1,
        "state": RolloutState.ACTIVE,
        "salt": "0" * 32,
        "bundles": {PROFILE: bundle},
        "share_ppm": 1_000_000,
        "soak_s": SOAK_S,
        **changes,
    }
    return Rollout(**fields)


def baseline(version: str, bundle: BundleRef) -> Baseline:
    return Baseline(
        slot="detector",
        profile=PROFILE,
        model="detector",
        version=version,
        rollout_id=f"r{version}",
        generation=1,
        bundle=bundle,
    )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_rollout_that_selects_the_device_begins(world: World) -> None:
    world.roll_out("1.0")
    assert (world.slot.at(), world.director.problem) == (S.DOWNLOADING, "")


@pytest.mark.parametrize(
    "changes",
    [
        {"share_ppm": 0},
        {"bundles": {"android-arm64": BundleRef(target="x", sha256="0" * 64, size_bytes=1)}},
        {"state": RolloutState.PAUSED},
        {"state": RolloutState.STOPPED},
        {"state": RolloutState.CANCELLED},
        {"state": RolloutState.REVERTED},
    ],
)
def test_a_rollout_that_does_not_want_the_device_begins_nothing(
    world: World, changes: dict[str, Any]
) -> None:
    world.roll_out("1.0", **changes)
    assert [slot.at() for slot in world.slots.values() if slot.at()] == []


# refusals -------------------------------------------------------------------------------------------------


def with_other_digest(bundle: BundleRef) -> BundleRef:
    return bundle.model_copy(update={"sha256": "0" * 64})


def with_other_size(bundle: BundleRef) -> BundleRef:
    return bundle.model_copy(update={"size_bytes": bundle.size_bytes + 1})


def with_other_path(bundle: BundleRef) -> BundleRef:
    return bundle.model_copy(update={"target": "bundles/detector/9/manifest.json"})


def with_foreign_path(bundle: BundleRef) -> BundleRef:
    return bundle.model_copy(update={"target": "../../etc/passwd"})


@pytest.mark.parametrize("change", [with_other_digest, with_other_size, with_other_path, with_foreign_path])
def test_a_bundle_that_no_release_key_signed_is_rejected(
    world: World, change: Callable[[BundleRef], BundleRef]
) -> None:
    world.document(rollout("1.0", change(world.sign("1.0"))))
    world.publish()
    assert (world.slot.at(), world.slot.why()) == (S.REJECTED, FailureReason.NOT_SIGNED)


def test_a_release_below_the_signed_minimum_is_rejected_and_the_next_one_taken(world: World) -> None:
    world.sign("1.2", minimum="1.10")
    world.roll_out("1.9")
    assert (world.slot.at(), world.slot.why()) == (S.REJECTED, FailureReason.BELOW_MINIMUM_VERSION)
    world.roll_out("1.10")
    assert (world.slot.at(), world.slot.wanted()) == (S.DOWNLOADING, "1.10")


def test_refused_metadata_changes_nothing_and_says_why(world: World) -> None:
    world.roll_out("1.0")
    old = world.fleet.files()
    world.roll_out("2.0")
    view = world.director.view
    assert world.slot.wanted() == "2.0"
    assert world.director.offer(old) is False
    assert world.director.view is view
    assert world.director.problem != ""
    assert world.slot.wanted() == "2.0"
    assert world.director.offer(world.fleet.files())
    assert world.director.problem == ""


@pytest.mark.parametrize(
    "files", [{}, {"timestamp.json": b""}, {"timestamp.json": b"{}"}, {"x": b"\0" * 100}]
)
def test_nonsense_is_refused(world: World, files: dict[str, bytes]) -> None:
    assert world.director.offer(files) is False
    assert world.director.problem != ""
    assert world.director.view is None


@pytest.mark.parametrize(("field_name", "value"), [("length", 0), ("hashes", {"sha256": "../../x"})])
def test_signed_nonsense_is_refused_too(world: World, field_name: str, value: Any) -> None:
    """A stolen online key can sign what no honest fleet would: it must not end the agent."""
    setattr(world.fleet.timestamp.snapshot_meta, field_name, value)
    world.fleet.timestamp.version += 1
    world.fleet.sign_timestamp()
    assert world.director.offer(world.fleet.files("snapshot.json")) is False
    assert world.director.view is None


# time -----------------------------------------------------------------------------------------------------


def test_expired_metadata_keeps_what_is_there_and_installs_nothing(world: World) -> None:
    world.roll_out("1.0")
    world.slot.bring_to(S.COMMITTED)
    world.document(rollout("2.0", world.sign("2.0")))
    world.fleet.publish("rollouts", "model-detector")
    world.director.offer(world.fleet.files())
    world.now = NOW + timedelta(days=30)
    world.evaluate()
    assert (world.slot.version(), world.slot.at()) == ("1.0", S.COMMITTED)
    assert "expired" in world.director.problem


def test_after_a_restart_expired_metadata_is_known_as_such(world: World) -> None:
    world.roll_out("1.0")
    world.now = NOW + timedelta(days=30)
    world.slots.clear()
    world.director = world.new_director()
    world.evaluate()
    assert world.slots == {}
    assert "expired" in world.director.problem


@pytest.mark.parametrize("clock", [NOW - timedelta(days=20), datetime.fromtimestamp(0, NOW.tzinfo)])
def test_until_the_clock_is_set_nothing_is_installed(world: World, clock: datetime) -> None:
    world.now = clock
    world.roll_out("1.0")
    assert world.slots == {}
    assert "clock" in world.director.problem
    world.now = NOW
    world.now_s += LINGER_S
    assert not world.director.tick()
    world.now_s += RETRY_PAUSE_S - LINGER_S
    assert world.director.next_due_s() == world.now_s
    assert world.director.tick()
    world.evaluate()
    assert (world.slot.at(), world.director.problem) == (S.DOWNLOADING, "")


def test_the_keeper_is_held_ready_through_a_burst_and_rests_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    monkeypatch.setattr(TrustKeeper, "rest", lambda keeper: rests.append(world.now_s))
    for _ in range(20):
        world.offer({"timestamp.json": b"garbage"})
        world.now_s += 0.1
        world.director.tick()
    assert rests == []
    world.now_s = world.director.next_due_s() or 0.0
    world.director.tick()
    assert rests == [pytest.approx(1.9 + LINGER_S)]
    assert world.director.next_due_s() is None


# what must be pulled first --------------------------------------------------------------------------------


def test_tags_are_pulled_before_anything_is_decided(world: World) -> None:
    world.fleet.tags = {DEVICE: ("canary",)}
    world.document(rollout("1.0", world.sign("1.0"), share_ppm=0, included_tags=("canary",)))
    world.fleet.publish("rollouts", "model-detector")
    world.offer(world.fleet.files("assignments"))
    ((digest, spec),) = world.downloader.wanted.items()
    assert world.slots == {}
    world.blobs.add_bytes(world.fleet.blobs()[digest])
    assert world.director.on_download(Completed(digest))
    world.evaluate()
    assert world.slot.at() is S.DOWNLOADING
    assert spec.size_bytes == len(world.fleet.blobs()[digest])


def test_metadata_that_did_not_fit_is_pulled_by_hash(world: World) -> None:
    world.document(rollout("1.0", world.sign("1.0")))
    world.fleet.publish("rollouts", "model-detector")
    world.offer(world.fleet.files("snapshot.json", "targets.json", "rollouts.json"))
    pulled = 0
    while world.director.view is None:
        (digest,) = set(world.downloader.wanted)
        world.downloader.wanted.clear()
        world.blobs.add_bytes(world.fleet.blobs()[digest])
        assert not world.director.on_download(Completed("0" * 64)), "not ours"
        fresh = world.director.on_download(Completed(digest))
        pulled += 1
        assert fresh == (world.director.view is not None)
    world.evaluate()
    assert pulled > 1
    assert world.slot.at() is S.DOWNLOADING


def test_metadata_that_cannot_be_fetched_is_asked_for_again_later(world: World) -> None:
    world.offer(world.fleet.files("snapshot.json"))
    (digest,) = set(world.downloader.wanted)
    world.downloader.wanted.clear()
    assert not world.director.on_download(
        Failed(digest, FailureReason.DOWNLOAD_NOT_FOUND, "the host has none")
    )
    assert "the host has none" in world.director.problem
    assert world.downloader.wanted == {}, "not at once: that would never end"
    assert not world.director.tick()
    world.now_s += RETRY_PAUSE_S
    assert not world.director.tick()
    assert set(world.downloader.wanted) == {digest}


def test_metadata_is_accepted_once_the_disk_takes_it(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise StorageFullError("No space left on device")

    world.document(rollout("1.0", world.sign("1.0")))
    world.fleet.publish("rollouts", "model-detector")
    with monkeypatch.context() as patch:
        patch.setattr(TrustKeeper, "_keep", full)
        assert world.director.offer(world.fleet.files()) is False
    assert "No space left" in world.director.problem
    assert "No space left" in caplog.text
    world.now_s += RETRY_PAUSE_S
    assert world.director.tick()
    assert world.director.problem == ""


# pause, stop, cancel, revert ------------------------------------------------------------------------------

UNTRIED = [S.DOWNLOADING, S.VERIFYING, S.PREPARING]
TRIED = [S.PROBING, S.ACTIVE, S.COMMITTED]


@pytest.mark.parametrize("state", [RolloutState.PAUSED, RolloutState.STOPPED])
@pytest.mark.parametrize("at", UNTRIED + TRIED)
def test_who_has_started_goes_on_when_a_rollout_is_paused_or_stopped(
    world: World, state: RolloutState, at: DeploymentState
) -> None:
    world.roll_out("1.0")
    world.slot.bring_to(at)
    world.roll_out("1.0", state)
    assert world.slot.at() is at
    world.slot.bring_to(S.COMMITTED)
    world.evaluate()
    assert world.slot.version() == "1.0"


@pytest.mark.parametrize("at", UNTRIED)
def test_a_cancelled_rollout_is_given_up_where_it_was_not_tried_yet(
    world: World, at: DeploymentState
) -> None:
    world.roll_out("1.0")
    world.slot.bring_to(at)
    world.roll_out("1.0", RolloutState.CANCELLED)
    assert world.slot.at() in (S.IDLE, S.FAILED)
    assert world.slot.version() is None
    world.evaluate()
    assert world.slot.at() in (S.IDLE, S.FAILED), "it does not begin again"


@pytest.mark.parametrize("at", TRIED)
def test_a_cancelled_rollout_is_kept_where_it_was_tried(world: World, at: DeploymentState) -> None:
    world.roll_out("1.0")
    world.slot.bring_to(at)
    world.roll_out("1.0", RolloutState.CANCELLED)
    world.slot.bring_to(S.COMMITTED)
    assert world.slot.version() == "1.0"


def test_who_falls_out_of_a_rollout_before_it_was_tried_stops(world: World) -> None:
    world.roll_out("1.0")
    world.roll_out("1.0", share_ppm=0)
    assert world.slot.at() is S.IDLE


def test_a_reverted_rollout_goes_back_to_what_was_there(world: World) -> None:
    world.roll_out("1.0")
    world.slot.bring_to(S.COMMITTED)
    world.roll_out("2.0")
    world.slot.bring_to(S.COMMITTED)
    world.roll_out("2.0", RolloutState.REVERTED)
    assert (world.slot.at(), world.slot.why()) == (S.ROLLING_BACK, FailureReason.REVERTED)
    world.slot.handle(ev.CandidateLoaded())
    world.slot.handle(ev.CandidateServing())
    assert world.slot.version() == "1.0"
    world.evaluate()
    assert (world.slot.at(), world.slot.version()) == (S.FAILED, "1.0")


def test_a_reverted_rollout_with_nothing_before_serves_nothing(world: World) -> None:
    world.roll_out("1.0")
    world.slot.bring_to(S.COMMITTED)
    world.roll_out("1.0", RolloutState.REVERTED)
    assert (world.slot.at(), world.slot.version()) == (S.FAILED, None)
    world.evaluate()
    assert world.slot.version() is None


@pytest.mark.parametrize("as_baseline", [True, False])
def test_a_reverted_bundle_that_the_fleet_wants_otherwise_stays(world: World, as_baseline: bool) -> None:
    """Two rollouts can name one bundle: giving up what the other one asks for would never come to rest."""
    bundle = world.sign("1.0")
    world.roll_out("1.0")
    world.slot.bring_to(S.COMMITTED)
    reverted = rollout("1.0", bundle, state=RolloutState.REVERTED)
    if as_baseline:
        world.document(reverted, baselines=(baseline("1.0", bundle),))
    else:
        world.document(reverted, rollout("1.0", bundle, id="again"))
    world.publish()
    world.evaluate()
    assert (world.slot.at(), world.slot.version()) == (S.COMMITTED, "1.0")


def test_a_device_that_was_away_goes_to_the_baseline(world: World) -> None:
    world.document(baselines=(baseline("3.0", world.sign("3.0")),))
    world.publish()
    world.slot.bring_to(S.COMMITTED)
    assert world.slot.version() == "3.0"


def test_a_failed_attempt_is_not_made_again_before_a_newer_generation(world: World) -> None:
    world.roll_out("1.0")
    world.slot.handle(ev.FetchFailed(FailureReason.DOWNLOAD_NOT_FOUND, "gone"))
    world.evaluate()
    assert world.slot.at() is S.FAILED
    world.roll_out("1.0", generation=2)
    assert world.slot.at() is S.DOWNLOADING


# slots ----------------------------------------------------------------------------------------------------


def test_no_more_than_so_many_slots_are_made_and_old_ones_stay_heard(world: World) -> None:
    world.roll_out("1.0", slot="zebra")
    world.slots["zebra"].bring_to(S.COMMITTED)
    bundle = world.sign("2.0")
    crowd = [rollout("2.0", bundle, id=f"r{n}", slot=f"slot{n:02}") for n in range(SLOTS_MAX + 3)]
    world.document(*crowd, rollout("2.0", bundle, id="rz", slot="zebra"))
    world.publish()
    assert len(world.slots) == SLOTS_MAX
    assert world.slots["zebra"].wanted() == "2.0"
    assert "left out" in world.director.problem


def test_a_slot_that_cannot_be_made_does_not_keep_the_others_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = world.runner_for

    def picky(slot: str) -> PureSlot:
        if slot == "a":
            raise ConfigError("the path is too long")
        return make(slot)

    monkeypatch.setattr(world, "runner_for", picky)
    world.director = world.new_director()
    bundle = world.sign("1.0")
    world.document(*(rollout("1.0", bundle, id=f"r-{slot}", slot=slot) for slot in ("a", "b")))
    world.publish()
    assert world.slots["b"].at() is S.DOWNLOADING
    assert "too long" in world.director.problem
