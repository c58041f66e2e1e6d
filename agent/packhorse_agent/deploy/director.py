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
from packhorse_agent.errors import UntrustedError
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.transfer import BlobSpec, Downloader, DownloadEvent
from packhorse_agent.trust import NeedsBlobs, TrustedView, TrustKeeper
from packhorse_agent.trust.clock import DurableClock

SLOTS_MAX = 16

_log = logging.getLogger(__name__)


class Director:
    """Evaluates the rollouts document for one device; called from the supervisor's main thread only."""

    def __init__(
        self,
        keeper: TrustKeeper,
        blobs: BlobStore,
        downloader: Downloader,
        facts: DeviceFacts,
        runner_for: Callable[[str], SlotRunner],
        clock: DurableClock,
    ) -> None:
        self._keeper = keeper
        self._blobs = blobs
        self._downloader = downloader
        self._facts = facts
        self._runner_for = runner_for
        self._clock = clock
        self._pending: set[str] = set()
        self._offered: Mapping[str, bytes] | None = None
        self.view: TrustedView | None = keeper.current(clock.now(), self._read_blob)
        self.refused = ""
        """Why the last metadata was refused; empty when it was accepted."""

    def offer(self, files: Mapping[str, bytes]) -> bool:
        """Take a trust set; True when there is a new view to evaluate."""
        self._offered = files
        try:
            outcome = self._keeper.offer(files, self._read_blob, self._clock.now())
        except UntrustedError as error:
            self._offered = None
            self.refused = str(error)
            _log.warning("metadata refused: %s", error)
            return False
        if isinstance(outcome, NeedsBlobs):
            self._want(outcome)
            return False
        self._offered = None
        self.refused = ""
        self.view = outcome
        self._clock.advance(outcome.issued_at)
        return True

    def on_download(self, event: DownloadEvent) -> bool:
        """Take the outcome of a download; True when it was metadata and there is something to evaluate."""
        if event.sha256 not in self._pending:
            return False
        self._pending.discard(event.sha256)
        if self._pending:
            return False
        return self.offer(self._offered) if self._offered is not None else True

    def evaluate(self, slots: Mapping[str, SlotRunner]) -> None:
        """Tell every slot what the fleet wants of it; without fresh metadata nothing new is installed."""
        view = self.view
        if view is None or self._is_expired(view):
            return
        tags = view.tags(self._facts.device_id)
        if isinstance(tags, NeedsBlobs):
            self._want(tags)
            return
        facts = DeviceFacts(
            self._facts.device_id, self._facts.profile, self._facts.agent_version, frozenset(tags)
        )
        names = sorted(slots_of(view.rollouts, facts) | slots.keys())
        for slot in names[:SLOTS_MAX]:
            self._evaluate_slot(view, facts, self._runner_for(slot))

    def _is_expired(self, view: TrustedView) -> bool:
        if not view.expired and view.expires > self._clock.now():
            return False
        self.refused = (
            f"metadata expired at {view.expires.isoformat()}: serving goes on, nothing new is installed"
        )
        return True

    def _evaluate_slot(self, view: TrustedView, facts: DeviceFacts, runner: SlotRunner) -> None:
        state = runner.state
        deployment = state.deployment
        under_way = deployment is not None and deployment.state in UNDER_WAY
        if state.active and is_reverted(view.rollouts, facts, runner.slot, state.active.bundle.sha256):
            runner.handle(ev.GiveUpActive(FailureReason.REVERTED, "the fleet reverted the rollout"))
            return
        desired = desired_in_slot(view.rollouts, facts, runner.slot, state.current_sha256())
        cancelled = desired is not None and _is_cancelled(desired)
        if under_way and (desired is None or cancelled):
            runner.handle(ev.Withdrawn())
        elif desired is not None and not cancelled:
            self._want_bundle(view, runner, desired)

    def _want_bundle(self, view: TrustedView, runner: SlotRunner, desired: Desired) -> None:
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

    def _want(self, needed: NeedsBlobs) -> None:
        for blob in needed.blobs:
            if not self._blobs.has(blob.sha256):
                self._pending.add(blob.sha256)
                self._downloader.want(BlobSpec(blob.sha256, blob.size_bytes, blob.chunk_index))

    def _read_blob(self, sha256: str) -> bytes | None:
        return self._blobs.read(sha256, METADATA_MAX_BYTES) if self._blobs.has(sha256) else None


def _is_cancelled(desired: Desired) -> bool:
    return desired.rollout is not None and desired.rollout.state is RolloutState.CANCELLED
