"""Brings bundles into the store: the manifest first, then every artifact that it names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from packhorse_agent.contract.limits import MANIFEST_MAX_BYTES
from packhorse_agent.contract.manifest import Manifest
from packhorse_agent.contract.states import FailureReason
from packhorse_agent.deploy import events as ev
from packhorse_agent.deploy.fitness import Unfit
from packhorse_agent.deploy.model import Attempt
from packhorse_agent.errors import AgentError, BadInputError, EnvironmentFaultError
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.transfer import BlobSpec, Completed, Downloader, DownloadEvent

Check = Callable[[Manifest, Attempt], Unfit | None]
Post = Callable[[str, ev.Event], None]
"""(slot, event)"""


@dataclass
class _Fetch:
    slot: str
    attempt: Attempt
    mends: bool
    manifest: Manifest | None = None
    pending: set[str] = field(default_factory=set)

    @property
    def key(self) -> tuple[str, bool]:
        """One bundle may come into a slot while the one that it serves is mended."""
        return self.slot, self.mends


class BundleFetcher:
    """Fetches bundles for slots, several at once; posts `Fetched` or `FetchFailed`.

    For one that is mended, because it was damaged on the disk, these are `ActiveFetched` and
    `ActiveFetchFailed`.
    """

    def __init__(self, blobs: BlobStore, downloader: Downloader, check: Check, post: Post) -> None:
        self._blobs = blobs
        self._downloader = downloader
        self._check = check
        self._post = post
        self._fetches: dict[tuple[str, bool], _Fetch] = {}

    def fetch(self, slot: str, attempt: Attempt, *, mends: bool = False) -> None:
        """Begin, or begin again after a restart: what the store holds is not fetched twice."""
        fetch = _Fetch(slot, attempt, mends)
        self._fetches[fetch.key] = fetch
        bundle = attempt.bundle
        self._proceed(fetch, (BlobSpec(bundle.sha256, bundle.size_bytes, ()),))

    def cancel(self, slot: str, attempt: Attempt) -> None:
        """Stop; what another slot waits for goes on, and so does mending."""
        fetch = self._fetches.get((slot, False))
        if fetch is not None and fetch.attempt == attempt:
            self._cancel(fetch)

    def on_download(self, event: DownloadEvent) -> None:
        """Take one outcome of the downloader."""
        for fetch in list(self._fetches.values()):
            if event.sha256 not in fetch.pending:
                continue
            if isinstance(event, Completed):
                fetch.pending.discard(event.sha256)
                self._proceed(fetch, ())
            else:
                self._fail(fetch, Unfit(event.reason, event.detail, rejected=False))

    def _cancel(self, fetch: _Fetch) -> None:
        self._fetches.pop(fetch.key, None)
        others = {sha for other in self._fetches.values() for sha in other.pending}
        for sha in fetch.pending - others:
            self._downloader.cancel(sha)

    def _proceed(self, fetch: _Fetch, needed: Sequence[BlobSpec]) -> None:
        problem: Unfit | None = None
        try:
            for spec in needed:
                self._need(fetch, spec)
            if not fetch.pending:
                problem = self._take_next(fetch)
        except BadInputError as error:
            problem = Unfit(FailureReason.MANIFEST_INVALID, str(error))
        except EnvironmentFaultError as error:
            problem = Unfit(FailureReason.STORAGE_FAILED, str(error), rejected=False)
        if problem is not None:
            self._fail(fetch, problem)

    def _need(self, fetch: _Fetch, spec: BlobSpec) -> None:
        if not self._blobs.has(spec.sha256):
            fetch.pending.add(spec.sha256)
            self._downloader.want(spec)

    def _take_next(self, fetch: _Fetch) -> Unfit | None:
        """Go on where all that was asked for is here: after the manifest its artifacts, then the end."""
        if fetch.manifest is not None:
            del self._fetches[fetch.key]
            self._post(fetch.slot, ev.ActiveFetched(fetch.attempt) if fetch.mends else ev.Fetched())
            return None
        manifest = read_manifest(self._blobs, fetch.attempt)
        if isinstance(manifest, Unfit):
            return manifest
        problem = self._check(manifest, fetch.attempt)
        if problem is None:
            fetch.manifest = manifest
            artifacts = manifest.artifacts
            self._proceed(fetch, [BlobSpec(a.sha256, a.size_bytes, a.chunk_index) for a in artifacts])
        return problem

    def _fail(self, fetch: _Fetch, problem: Unfit) -> None:
        self._cancel(fetch)
        if fetch.mends:
            self._post(fetch.slot, ev.ActiveFetchFailed(fetch.attempt, problem.reason, problem.detail))
        else:
            self._post(fetch.slot, ev.FetchFailed(problem.reason, problem.detail, problem.rejected))


def read_manifest(blobs: BlobStore, attempt: Attempt) -> Manifest | Unfit:
    """The manifest of an attempt out of the store."""
    try:
        return Manifest.model_validate_json(blobs.read(attempt.bundle.sha256, MANIFEST_MAX_BYTES))
    except ValidationError as error:
        return Unfit(FailureReason.MANIFEST_INVALID, f"the manifest is not valid: {_first_of(error)}")
    except EnvironmentFaultError as error:
        return Unfit(FailureReason.STORAGE_FAILED, str(error), rejected=False)
    except AgentError as error:
        return Unfit(FailureReason.DIGEST_MISMATCH, str(error), rejected=False)


def _first_of(error: ValidationError) -> str:
    """The first of perhaps thousands: the text goes into a report of bounded size."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part)[:40] for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where or 'document'}: {first['msg'][:200]}{more}"
