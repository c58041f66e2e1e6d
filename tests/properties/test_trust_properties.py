"""Laws of trust: what a device may never do, whatever it is given and in whatever order."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from packhorse_agent.errors import UntrustedError
from packhorse_agent.trust.errors import ExpiredMetadataError, OlderMetadataError
from packhorse_agent.trust.keeper import TrustKeeper
from packhorse_agent.trust.ports import NeedsBlobs
from packhorse_agent.trust.release import BundlePath, parse_bundle_path
from packhorse_agent.trust.view import TrustedView
from tests.agent.trust.simulator import FLEET, NOW, FleetSimulator, no_blobs
from tests.fakes.disk import FastFiles

VALID = FleetSimulator()
VALID_FILES = VALID.files()


def in_fresh_folder(work: Callable[[TrustKeeper], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work(TrustKeeper(Path(folder), VALID.roots[0], FLEET, FastFiles()))


def offer_is_refused_or_means_the_same(files: dict[str, bytes]) -> None:
    def work(keeper: TrustKeeper) -> None:
        try:
            outcome = keeper.offer(files, no_blobs, NOW)
        except UntrustedError:
            assert keeper.current(NOW) is None
            return
        if isinstance(outcome, TrustedView):
            assert (outcome.version, outcome.rollouts) == (1, VALID.rollouts_document)

    in_fresh_folder(work)


@settings(max_examples=70)
@given(st.sampled_from(sorted(VALID_FILES)), st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_is_refused_or_means_the_same(name: str, place: int, change: int) -> None:
    content = bytearray(VALID_FILES[name])
    content[place % len(content)] ^= change
    offer_is_refused_or_means_the_same({**VALID_FILES, name: bytes(content)})


@settings(max_examples=25)
@given(st.sampled_from(sorted(VALID_FILES)), st.integers(0, 10**6))
def test_any_truncation_is_refused_or_means_the_same(name: str, place: int) -> None:
    content = VALID_FILES[name]
    offer_is_refused_or_means_the_same({**VALID_FILES, name: content[: place % len(content)]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["signed", "signatures", "_type", "version", "expires", "meta", "keys", "roles"])


@settings(max_examples=30)
@given(st.sampled_from(["timestamp.json", "2.root.json"]), st.dictionaries(FIELDS, JSON, max_size=5))
def test_any_json_is_refused(name: str, content: dict[str, object]) -> None:
    document = json.dumps({"signed": content, **content}).encode()
    offer_is_refused_or_means_the_same({**VALID_FILES, name: document})


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from([*sorted(VALID_FILES), "x"]), st.binary(max_size=50), max_size=6))
def test_any_set_of_bytes_is_refused(files: dict[str, bytes]) -> None:
    offer_is_refused_or_means_the_same(files)


@given(*[st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True)] * 4)
def test_bundle_paths_round_trip(model: str, version: str, profile: str, recipe: str) -> None:
    path = BundlePath(model, version, profile, recipe)
    assert parse_bundle_path(str(path)) == path


class DeviceWalk(RuleBasedStateMachine):
    """A fleet publishes, time goes by, and an attacker offers whatever was ever published, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.fleet = FleetSimulator()
        self.now = NOW
        self.published = [self.fleet.files()]
        self.expires = [self.fleet.timestamp.expires]
        self.accepted = 0
        """Version that the device has accepted: the model of it."""

    @initialize()
    def start(self) -> None:
        self.restart()

    @rule()
    def restart(self) -> None:
        self.keeper = TrustKeeper(self.folder, self.fleet.roots[0], FLEET, FastFiles())

    @rule(role=st.sampled_from(["targets", "rollouts", "model-detector"]))
    def publish(self, role: str) -> None:
        self.fleet.timestamp.expires = self.now + timedelta(days=1)
        self.fleet.snapshot.expires = self.fleet.roles["rollouts"].expires = self.now + timedelta(days=30)
        self.published.append(self.fleet.publish("rollouts", *({role} - {"rollouts"})))
        self.expires.append(self.fleet.timestamp.expires)

    @rule(hours=st.integers(1, 30))
    def let_time_pass(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule(pick=st.integers(0, 100))
    def offer(self, pick: int) -> None:
        version = pick % len(self.published) + 1
        fresh = self.expires[version - 1] > self.now
        try:
            outcome = self.keeper.offer(self.published[version - 1], no_blobs, self.now)
        except OlderMetadataError:
            assert version < self.accepted
        except ExpiredMetadataError:
            assert not fresh
        else:
            assert not isinstance(outcome, NeedsBlobs)
            assert fresh
            assert version >= self.accepted
            self.accepted = version

    @rule(first=st.integers(0, 100), second=st.integers(0, 100))
    def offer_a_mixture(self, first: int, second: int) -> None:
        """Timestamp of one, everything of both."""
        one, two = (self.published[pick % len(self.published)] for pick in (first, second))
        version = first % len(self.published) + 1
        try:
            self.keeper.offer({**two, **one}, no_blobs, self.now)
        except UntrustedError:
            return
        assert version >= self.accepted
        self.accepted = version

    @invariant()
    def it_never_goes_back(self) -> None:
        view = self.keeper.current(self.now)
        assert (view.version if view else 0) == self.accepted
        assert view is None or view.expired == (self.expires[self.accepted - 1] <= self.now)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


TestDeviceWalk = DeviceWalk.TestCase
TestDeviceWalk.settings = settings(max_examples=10, stateful_step_count=15)
