"""Holds the fleet's signed word against what each slot has, and tells the slots what to become."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from packhorse_agent.contract.base import version_key
from packhorse_agent.contract.limits import METADATA_MAX_BYTES
from packhorse_agent.contract.rollout import RolloutState
from packhorse_agent.contract.selection import Desired, DeviceFacts, desired_in_slot, is_reverted, slots_of
from packhorse_agent.contract.states import FailureReason
from packhorse_agent.deploy import events as ev
from packhorse_agent.deploy.model import UNDER_WAY
from packhorse_agent.deploy.slot import SlotRunner
from packhorse_agent.errors import AgentError, EnvironmentFaultError
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.store.errors import DigestMismatchError
from packhorse_agent.transfer import BlobSpec, Downloader, DownloadEvent, Failed
from packhorse_agent.trust.clock import DurableClock
from packhorse_agent.trust.ports import Keeper, NeedsBlobs, View

SLOTS_MAX = 16
"""The slots that a device has had stay; of new ones as many are made as there is room for."""

RETRY_PAUSE_S = 30.0
"""After this what the disk, the network or the clock did not allow is tried again."""

LINGER_S = 2.0
"""So long the keeper is held ready: one release brings several questions, and a broker that floods a device
with trust sets must not make it start a process for each."""

_log = logging.getLogger(__name__)


class Director:
    """Evaluates the rollouts document for one device; called from the supervisor's main thread only."""

    def __init__(
        self,
        keeper: Keeper,
        blobs: BlobStore,
        downloader: Downloader,
        facts: DeviceFacts,
        runner_for: Callable[[str], SlotRunner],
        clock: DurableClock,
        monotonic: Callable[[], float],
    ) -> None:
        self._keeper = keeper
        self._blobs = blobs
        self._downloader = downloader
        self._facts = facts
        self._runner_for = runner_for
        self._clock = clock
        self._monotonic = monotonic
        self._pending: set[str] = set()
        self._offered: Mapping[str, bytes] | None = None
        self._refused = ""
        self._stuck = ""
        self._retry_at_s: float | None = None
        self._rest_at_s: float | None = None
        self.view: View | None = None
        self._read_accepted()

    @property
    def problem(self) -> str:
        """Why the last metadata was refused or what was accepted cannot be followed; empty: all is well."""
        return "; ".join(text for text in (self._hold(), self._refused, self._stuck) if text)

    def next_due_s(self) -> float | None:
        """When `tick` is next needed, on the monotonic clock."""
        return min((at for at in (self._retry_at_s, self._rest_at_s) if at is not None), default=None)

    def offer(self, files: Mapping[str, bytes]) -> bool:
        """Take a trust set; True when there is a new view to evaluate."""
        self._rest_later()
        return self._take(files)

    def _take(self, files: Mapping[str, bytes]) -> bool:
        self._offered = files
        try:
            outcome = self._keeper.offer(files, self._read_blob, self._clock.now())
            if isinstance(outcome, NeedsBlobs):
                self._want(outcome)
                return False
        except EnvironmentFaultError as error:
            self._refused = f"newer metadata cannot be taken in: {error}"
            _log.warning("%s; next try in %.0f s", self._refused, RETRY_PAUSE_S)
            self._retry_later()
            return False
        except AgentError as error:
            self._offered = None
            self._refused = str(error)
            _log.warning("metadata refused: %s", error)
            return False
        self._accept(outcome)
        return True

    def on_download(self, event: DownloadEvent) -> bool:
        """Take the outcome of a download; True when it was metadata and there is something to evaluate."""
        if event.sha256 not in self._pending:
            return False
        self._pending.discard(event.sha256)
        if isinstance(event, Failed):
            self._stuck = f"metadata cannot be fetched: {event.detail}"
            self._retry_later()
            return False
        return self._try_again()

    def tick(self) -> bool:
        """Try again what is due; True when there is something to evaluate."""
        now_s = self._monotonic()
        if self._rest_at_s is not None and now_s >= self._rest_at_s:
            self._rest_at_s = None
            self._keeper.rest()
        if self._retry_at_s is None or now_s < self._retry_at_s:
            return False
        self._retry_at_s = None
        return self._try_again()

    def evaluate(self, slots: Mapping[str, SlotRunner]) -> None:
        """Tell every slot what the fleet wants of it; without fresh metadata nothing new is installed."""
        self._rest_later()
        self._follow(slots)

    def _follow(self, slots: Mapping[str, SlotRunner]) -> None:
        view = self.view
        self._stuck = ""
        if view is None:
            return
        if not self._clock.is_set:
            self._retry_later()
        if self._hold():
            return
        try:
            self._evaluate(view, slots)
        except AgentError as error:
            self._stuck = str(error)
            _log.error("rollouts cannot be followed: %s", error)
            self._retry_later()

    def _evaluate(self, view: View, slots: Mapping[str, SlotRunner]) -> None:
        tags = view.tags(self._facts.device_id)
        if isinstance(tags, NeedsBlobs):
            self._want(tags)
            return
        mine = self._facts
        facts = DeviceFacts(mine.device_id, mine.profile, mine.agent_version, frozenset(tags))
        new = sorted(slots_of(view.rollouts, facts) - slots.keys())
        room = max(SLOTS_MAX - len(slots), 0)
        if new[room:]:
            self._stuck = f"no more than {SLOTS_MAX} slots: {', '.join(new[room:])} left out"
        for slot in [*sorted(slots), *new[:room]]:
            runner = self._open(slot)
            if runner is not None:
                self._evaluate_slot(view, facts, runner)

    def _open(self, slot: str) -> SlotRunner | None:
        try:
            return self._runner_for(slot)
        except AgentError as error:
            self._stuck = str(error)
            _log.error("slot %s cannot be made: %s", slot, error)
            return None

    def _evaluate_slot(self, view: View, facts: DeviceFacts, runner: SlotRunner) -> None:
        state = runner.state
        deployment = state.deployment
        under_way = deployment is not None and deployment.state in UNDER_WAY
        active_sha256 = state.active.bundle.sha256 if state.active else None
        desired = desired_in_slot(view.rollouts, facts, runner.slot, state.current_sha256())
        # a bundle that was reverted once may be the baseline, or be tried again by a later rollout
        kept = desired is not None and desired.bundle.sha256 == active_sha256
        if active_sha256 and not kept and is_reverted(view.rollouts, facts, runner.slot, active_sha256):
            runner.handle(ev.GiveUpActive(FailureReason.REVERTED, "the fleet reverted the rollout"))
            return
        cancelled = desired is not None and _is_cancelled(desired)
        if under_way and (desired is None or cancelled):
            runner.handle(ev.Withdrawn())
        elif desired is not None and not cancelled:
            self._want_bundle(view, runner, desired)

    def _want_bundle(self, view: View, runner: SlotRunner, desired: Desired) -> None:
        target = view.resolve(desired.bundle.target)
        if isinstance(target, NeedsBlobs):
            self._want(target)
            return
        refusal: tuple[FailureReason, str] | None = None
        signed = target is not None and target.sha256 == desired.bundle.sha256
        if target is None or not signed or target.size_bytes != desired.bundle.size_bytes:
            refusal = (FailureReason.NOT_SIGNED, f"no release key signed {desired.bundle.target} as ordered")
        elif version_key(desired.version) < version_key(target.minimum_version):
            text = f"{desired.model} {desired.version} is below the signed minimum {target.minimum_version}"
            refusal = (FailureReason.BELOW_MINIMUM_VERSION, text)
        runner.handle(ev.Wanted(desired, refusal))

    def _accept(self, view: View) -> None:
        self._offered = None
        self._refused = ""
        self.view = view
        try:
            self._clock.advance(view.issued_at)
        except EnvironmentFaultError as error:
            _log.error("the clock's floor is not kept: %s", error)

    def _read_accepted(self) -> None:
        try:
            self.view = self._keeper.current(self._clock.now(), self._read_blob)
        except (EnvironmentFaultError, OSError) as error:
            self._stuck = f"the accepted metadata cannot be read: {error}"
            self._retry_later()

    def _try_again(self) -> bool:
        if self._offered is not None:
            return self.offer(self._offered)
        if self.view is None:
            self._read_accepted()
        return True

    def _rest_later(self) -> None:
        self._rest_at_s = self._monotonic() + LINGER_S

    def _retry_later(self) -> None:
        self._retry_at_s = self._monotonic() + RETRY_PAUSE_S

    def _hold(self) -> str:
        """Why nothing may be installed by the accepted metadata now; empty when it may."""
        view = self.view
        if view is None:
            return ""
        if not self._clock.is_set:
            return "the system clock is behind signed metadata: nothing new is installed until it is set"
        if view.expired or view.expires <= self._clock.now():
            return (
                f"metadata expired at {view.expires.isoformat()}: serving goes on, nothing new is installed"
            )
        return ""

    def _want(self, needed: NeedsBlobs) -> None:
        if not needed.blobs:
            self._stuck = needed.reason
        for blob in needed.blobs:
            if not self._blobs.has(blob.sha256):
                self._downloader.want(BlobSpec(blob.sha256, blob.size_bytes, blob.chunk_index))
                self._pending.add(blob.sha256)

    def _read_blob(self, sha256: str) -> bytes | None:
        if not self._blobs.has(sha256):
            return None
        try:
            return self._blobs.read(sha256, METADATA_MAX_BYTES)
        except DigestMismatchError:
            return None


def _is_cancelled(desired: Desired) -> bool:
    return desired.rollout is not None and desired.rollout.state is RolloutState.CANCELLED
