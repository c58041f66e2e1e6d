"""Bringing bundles in: from nothing, from half, for two slots at once, and everything that goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.manifest import Manifest
from packhorse_agent.contract.rollout import BundleRef
from packhorse_agent.contract.states import FailureReason
from packhorse_agent.deploy import events as ev
from packhorse_agent.deploy.fetch import BundleFetcher, read_manifest
from packhorse_agent.deploy.fitness import Unfit
from packhorse_agent.deploy.model import Attempt
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.store.errors import StorageFaultError
from packhorse_agent.transfer import BlobSpec, Completed, Failed
from tests.agent.models import write_bundle


@dataclass
class FakeDownloader:
    """Notes what is wanted; the test decides what comes."""

    wanted: dict[str, BlobSpec] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)

    def want(self, spec: BlobSpec) -> None:
        self.wanted[spec.sha256] = spec

    def cancel(self, sha256: str) -> None:
        self.wanted.pop(sha256, None)
        self.cancelled.append(sha256)


class Bench:
    """A fetcher over a real store, and a host that has bundles."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = BlobStore(folder / "store")
        self.downloader = FakeDownloader()
        self.posted: list[tuple[str, ev.Event]] = []
        self.host: dict[str, bytes] = {}
        self.unfit: Unfit | None = None
        self.fetcher = BundleFetcher(
            self.blobs,
            self.downloader,  # type: ignore[arg-type]
            lambda manifest, attempt: self.unfit,
            lambda slot, event: self.posted.append((slot, event)),
        )

    def order(self, version: str = "1.0", manifest: bytes | None = None) -> Attempt:
        bundle = write_bundle(self.folder / version, version=version)
        data = manifest if manifest is not None else bundle.manifest_path.read_bytes()
        for content in (data, *(path.read_bytes() for path in bundle.artifacts.values())):
            self.host[sha256_hex(content)] = content
        reference = BundleRef(target="bundles/x", sha256=sha256_hex(data), size_bytes=max(len(data), 1))
        return Attempt(rollout_id="r1", generation=1, model="linear", version=version, bundle=reference)

    def manifest(self, attempt: Attempt) -> Manifest:
        return Manifest.model_validate_json(self.host[attempt.bundle.sha256])

    def artifacts(self, attempt: Attempt) -> list[str]:
        return [artifact.sha256 for artifact in self.manifest(attempt).artifacts]

    def deliver(self, *digests: str) -> None:
        for sha256 in digests:
            self.downloader.wanted.pop(sha256)
            self.blobs.add_bytes(self.host[sha256])
            self.fetcher.on_download(Completed(sha256))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_manifest_comes_first_then_what_it_names(bench: Bench) -> None:
    attempt = bench.order()
    bench.fetcher.fetch("a", attempt)
    assert list(bench.downloader.wanted) == [attempt.bundle.sha256]
    bench.deliver(attempt.bundle.sha256)
    assert set(bench.downloader.wanted) == set(bench.artifacts(attempt))
    assert bench.posted == []
    bench.deliver(*bench.artifacts(attempt))
    assert bench.posted == [("a", ev.Fetched())]


@pytest.mark.parametrize("present", [(), (0,), (1,), (0, 1)])
def test_what_is_here_is_not_asked_for(bench: Bench, present: tuple[int, ...]) -> None:
    attempt = bench.order()
    artifacts = bench.artifacts(attempt)
    for number in present:
        bench.blobs.add_bytes(bench.host[artifacts[number]])
    bench.blobs.add_bytes(bench.host[attempt.bundle.sha256])
    bench.fetcher.fetch("a", attempt)
    missing = [sha256 for number, sha256 in enumerate(artifacts) if number not in present]
    assert list(bench.downloader.wanted) == missing
    bench.deliver(*missing)
    assert bench.posted == [("a", ev.Fetched())]


def test_what_another_slot_waits_for_goes_on_when_one_is_cancelled(bench: Bench) -> None:
    shared, newer = bench.order("1.0"), bench.order("2.0")
    bench.fetcher.fetch("a", shared)
    bench.fetcher.fetch("b", newer)
    bench.deliver(shared.bundle.sha256, newer.bundle.sha256)
    bench.fetcher.cancel("a", shared)
    assert bench.downloader.cancelled == [], "both bundles hold the same artifacts"
    bench.deliver(*bench.artifacts(newer))
    assert bench.posted == [("b", ev.Fetched())]


def test_what_nobody_else_waits_for_is_cancelled(bench: Bench) -> None:
    attempt = bench.order()
    bench.fetcher.fetch("a", attempt)
    bench.fetcher.cancel("a", attempt)
    assert bench.downloader.cancelled == [attempt.bundle.sha256]


def test_an_old_cancellation_does_not_stop_the_next_attempt(bench: Bench) -> None:
    old, new = bench.order("1.0"), bench.order("2.0")
    bench.fetcher.fetch("a", new)
    bench.fetcher.cancel("a", old)
    bench.fetcher.cancel("b", new)
    assert bench.downloader.cancelled == []


@pytest.mark.parametrize("reason", [FailureReason.DOWNLOAD_NOT_FOUND, FailureReason.STORAGE_FULL])
def test_a_failed_blob_fails_every_slot_that_needs_it(bench: Bench, reason: FailureReason) -> None:
    one, two = bench.order("1.0"), bench.order("2.0")
    for slot, attempt in (("a", one), ("b", two)):
        bench.fetcher.fetch(slot, attempt)
        bench.deliver(attempt.bundle.sha256)
    lost, kept = bench.artifacts(one)
    bench.fetcher.on_download(Failed(lost, reason, "gone"))
    failed = ev.FetchFailed(reason, "gone", rejected=False)
    assert bench.posted == [("a", failed), ("b", failed)]
    assert kept in bench.downloader.cancelled
    bench.fetcher.on_download(Completed(kept))
    assert len(bench.posted) == 2, "an echo of what was given up"


def test_what_does_not_fit_is_rejected_before_its_artifacts_are_asked_for(bench: Bench) -> None:
    bench.unfit = Unfit(FailureReason.WRONG_PROFILE, "not for us")
    attempt = bench.order()
    bench.fetcher.fetch("a", attempt)
    bench.deliver(attempt.bundle.sha256)
    assert bench.posted == [("a", ev.FetchFailed(FailureReason.WRONG_PROFILE, "not for us", rejected=True))]
    assert bench.downloader.wanted == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 9}', b'{"artifacts": [' + b"{}," * 5000 + b"{}]}"],
)
def test_a_signed_manifest_that_is_none_is_rejected_in_few_words(bench: Bench, content: bytes) -> None:
    attempt = bench.order(manifest=content)
    bench.fetcher.fetch("a", attempt)
    bench.deliver(attempt.bundle.sha256)
    (_, event), *others = bench.posted
    assert others == []
    assert isinstance(event, ev.FetchFailed)
    assert (event.reason, event.rejected) == (FailureReason.MANIFEST_INVALID, True)
    assert 0 < len(event.detail) < 500


def damage(bench: Bench, sha256: str) -> None:
    path = bench.blobs.path(sha256)
    path.write_bytes(b"\0" * path.stat().st_size)


def test_a_manifest_that_was_damaged_on_the_disk_fails_and_is_fetched_anew(bench: Bench) -> None:
    attempt = bench.order()
    bench.blobs.add_bytes(bench.host[attempt.bundle.sha256])
    damage(bench, attempt.bundle.sha256)
    bench.fetcher.fetch("a", attempt)
    ((_, event),) = bench.posted
    assert isinstance(event, ev.FetchFailed)
    assert (event.reason, event.rejected) == (FailureReason.DIGEST_MISMATCH, False)
    bench.fetcher.fetch("a", attempt)
    assert list(bench.downloader.wanted) == [attempt.bundle.sha256]


@pytest.mark.parametrize("method", ["has", "read"])
def test_a_disk_that_cannot_be_read_fails_the_fetch_not_the_agent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def broken(*_: object) -> Callable[..., object]:
        raise StorageFaultError("Input/output error", 5)

    attempt = bench.order()
    bench.blobs.add_bytes(bench.host[attempt.bundle.sha256])
    monkeypatch.setattr(bench.blobs, method, broken)
    bench.fetcher.fetch("a", attempt)
    assert bench.posted == [
        ("a", ev.FetchFailed(FailureReason.STORAGE_FAILED, "Input/output error", rejected=False))
    ]


def test_a_manifest_that_is_not_here_is_unfit(bench: Bench) -> None:
    found = read_manifest(bench.blobs, bench.order())
    assert isinstance(found, Unfit)
    assert found.rejected is False


def test_mending_what_serves_goes_on_beside_a_new_bundle_and_is_not_cancelled_with_it(bench: Bench) -> None:
    attempt = bench.order("1.0")
    bench.fetcher.fetch("a", attempt, mends=True)
    bench.fetcher.fetch("a", attempt)
    bench.fetcher.cancel("a", attempt)
    assert bench.downloader.cancelled == []
    bench.deliver(attempt.bundle.sha256)
    bench.deliver(*bench.artifacts(attempt))
    assert bench.posted == [("a", ev.ActiveFetched(attempt))]


def test_what_cannot_be_mended_is_said(bench: Bench) -> None:
    attempt = bench.order("1.0")
    bench.fetcher.fetch("a", attempt, mends=True)
    bench.fetcher.on_download(Failed(attempt.bundle.sha256, FailureReason.DOWNLOAD_NOT_FOUND, "gone"))
    failed = ev.ActiveFetchFailed(attempt, FailureReason.DOWNLOAD_NOT_FOUND, "gone")
    assert bench.posted == [("a", failed)]
