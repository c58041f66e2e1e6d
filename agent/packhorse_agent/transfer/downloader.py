"""Fetches blobs through a port that carries requests out and frames in.

One thread calls it. It never waits: what is pending is done in steps by `tick`, and `next_due` says when.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from functools import partial
from random import Random

from packhorse_agent.contract.chunks import (
    Chunk,
    Reply,
    ReplyKind,
    Want,
    claimed_chunk,
    decode_frame,
    ranges_of,
)
from packhorse_agent.contract.errors import MalformedMessageError
from packhorse_agent.contract.states import FailureReason
from packhorse_agent.errors import BadInputError, EnvironmentFaultError, NotFoundError
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.store.errors import DigestMismatchError, StorageFullError
from packhorse_agent.transfer.corruption import CORRUPT_MAX, Corruption
from packhorse_agent.transfer.flow import BACKOFF_MAX_S, ChunkKey, Flow
from packhorse_agent.transfer.job import Fetch, Job, Level
from packhorse_agent.transfer.spec import BlobSpec, Completed, DownloadCounters, DownloadEvent, Failed

_log = logging.getLogger(__name__)

OPEN_MAX = 4
"""Blobs that are fetched at a time; the rest waits in order."""

STEP_BYTES = 2 * 1024 * 1024
"""Work on the disk that one `tick` does for one blob."""

CATCH_UP_BYTES = 256 * 1024
SYNC_AFTER_S = 1.0
BUSY_MIN_S, BUSY_MAX_S = 0.1, 60.0


class Downloader:
    """Wanted blobs, the chunks in flight for them, and what became of them."""

    def __init__(
        self, blobs: BlobStore, send: Callable[[Want], None], clock: Callable[[], float], random: Random
    ) -> None:
        """`send` must not raise; it may drop: what does not come is asked for again.

        `clock` is monotonic, in seconds.
        """
        self.counters = DownloadCounters()
        self._blobs = blobs
        self._send = send
        self._clock = clock
        self._flow = Flow(random.random)
        self._corruption = Corruption()
        self._request_id = random.getrandbits(32)
        self._jobs: dict[str, Job] = {}
        self._fetches: dict[str, Fetch] = {}
        self._events: list[DownloadEvent] = []

    def want(self, spec: BlobSpec) -> None:
        """Fetch a blob unless it is here; asking twice is no error."""
        if self._blobs.has(spec.sha256):
            self._events.append(Completed(spec.sha256))
        elif spec.sha256 not in self._jobs:
            self._jobs[spec.sha256] = Job(spec)
            self._pump()

    def cancel(self, sha256: str) -> None:
        """Stop fetching; what is here of it stays until it is collected. An unknown blob is no error."""
        if job := self._jobs.pop(sha256, None):
            self._put_down(job)
            self._pump()

    def on_frame(self, frame: bytes) -> None:
        """Take a frame from the network; what is malformed, corrupt or unasked is counted and ignored."""
        self.counters.received += 1
        try:
            message = decode_frame(frame)
        except MalformedMessageError:
            self.counters.malformed += 1
            self._on_malformed(frame)
            return
        fetch = self._fetches.get(message.blob_sha256)
        if fetch is None:
            self.counters.unasked += 1
            return
        if isinstance(message, Chunk):
            self._guarded(fetch.job, partial(self._on_chunk, fetch, message))
        else:
            self._on_reply(fetch, message)
        self._pump()

    def on_connected(self) -> None:
        """The way to the host is open again: what was in flight is lost, ask at once."""
        self._give_back(self._flow.restart())
        self._pump()

    def tick(self) -> None:
        """Do what is due: checks of what is on disk, syncs, asking again."""
        for fetch in list(self._fetches.values()):
            self._guarded(fetch.job, partial(self._step, fetch))
        deadline_s = self._flow.deadline_s()
        if deadline_s is not None and self._clock() >= deadline_s:
            self._give_back(self._flow.silent())
        self._pump()

    def next_due(self) -> float | None:
        """When `tick` has something to do, by the clock; None while nothing is pending."""
        now_s = self._clock()
        due = [due_s for fetch in self._fetches.values() if (due_s := _due(fetch, now_s)) is not None]
        if (deadline_s := self._flow.deadline_s()) is not None:
            due.append(deadline_s)
        return min(due, default=None)

    def poll(self) -> list[DownloadEvent]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    def progress(self, sha256: str) -> tuple[int, int]:
        """Bytes that are here and all bytes of a wanted blob.

        Raises:
            NotFoundError: not wanted, or finished.
        """
        if job := self._jobs.get(sha256):
            return job.present_bytes(), job.spec.size_bytes
        raise NotFoundError(f"blob {sha256} is not being fetched")

    def holds(self) -> frozenset[str]:
        """Blobs that downloads depend on, index levels included: not to be collected."""
        return frozenset(level.sha256 for job in self._jobs.values() for level in job.levels)

    def close(self) -> None:
        """Stop, keeping all that is here for the next start."""
        for job in self._jobs.values():
            self._put_down(job)
        self._jobs.clear()

    def _on_chunk(self, fetch: Fetch, chunk: Chunk) -> None:
        try:
            fresh = fetch.part.write_chunk(chunk.index, chunk.raw)
        except DigestMismatchError:
            self.counters.corrupt += 1
            self._on_corrupt(fetch, (chunk.blob_sha256, chunk.index))
            return
        if not fresh:
            self.counters.duplicate += 1
            return
        self.counters.stored += 1
        self._corruption.clear((chunk.blob_sha256, chunk.index))
        now_s = self._clock()
        self._give_back(self._flow.arrived((chunk.blob_sha256, chunk.index), now_s))
        fetch.settle(CATCH_UP_BYTES)
        if not fetch.part.unsynced_bytes:
            fetch.dirty_since_s = None
        elif fetch.dirty_since_s is None:
            fetch.dirty_since_s = now_s
        self._complete_if_finished(fetch)

    def _on_malformed(self, frame: bytes) -> None:
        key = claimed_chunk(frame)
        if key is not None and (fetch := self._fetches.get(key[0])):
            self._on_corrupt(fetch, key)
            self._pump()

    def _on_corrupt(self, fetch: Fetch, key: ChunkKey) -> None:
        """Asked for again when its time is over, with an end; what nobody asked for ends nothing."""
        text = "chunk %d of blob %s is not what was signed; it is asked for again"
        _log.warning(text, key[1], key[0])
        if key not in self._flow.in_flight:
            return
        if hopeless := self._corruption.note(key, self._clock()):
            self._fail(fetch.job, FailureReason.DOWNLOAD_CORRUPT, hopeless)

    def _on_reply(self, fetch: Fetch, reply: Reply) -> None:
        if reply.kind is ReplyKind.NOT_FOUND:
            self.counters.not_found += 1
            text = f"the host has no blob {reply.blob_sha256}, or only a damaged one: its log says which"
            self._fail(fetch.job, FailureReason.DOWNLOAD_NOT_FOUND, text)
        else:
            self.counters.busy += 1
            self._pause(fetch, min(max(reply.retry_after_ms / 1000, BUSY_MIN_S), BUSY_MAX_S))

    def _pause(self, fetch: Fetch, seconds: float) -> None:
        self._give_back(self._flow.forget(fetch.level.sha256))
        fetch.paused_until_s = self._clock() + seconds

    def _step(self, fetch: Fetch) -> None:
        self._reuse_some(fetch)
        fetch.settle(STEP_BYTES)
        if fetch.dirty_since_s is not None and self._clock() >= fetch.dirty_since_s + SYNC_AFTER_S:
            fetch.part.sync()
            fetch.dirty_since_s = None
        self._complete_if_finished(fetch)

    def _reuse_some(self, fetch: Fetch) -> None:
        taken_bytes = 0
        while fetch.reuse and taken_bytes < STEP_BYTES:
            found = next(fetch.reuse, None)
            if found is None:
                fetch.reuse = None
            else:
                self.counters.reused += fetch.part.write_chunk(*found)
                taken_bytes += len(found[1])

    def _complete_if_finished(self, fetch: Fetch) -> None:
        if not fetch.finished():
            return
        try:
            fetch.part.complete()
        except DigestMismatchError as error:
            self._not_what_was_named(fetch, str(error))
        else:
            del self._fetches[fetch.level.sha256]
            fetch.job.fetch = None

    def _not_what_was_named(self, fetch: Fetch, detail: str) -> None:
        """A part without index is fetched again, later and later; with one, the metadata itself is wrong."""
        if fetch.part.find_missing(0) < 0:
            self._fail(fetch.job, FailureReason.DIGEST_MISMATCH, detail)
            return
        self.counters.corrupt += 1
        fetch.retries += 1
        if fetch.retries >= CORRUPT_MAX:
            text = f"{detail}, the last of {fetch.retries} times"
            self._fail(fetch.job, FailureReason.DOWNLOAD_CORRUPT, text)
            return
        fetch.give_back(0)
        self._pause(fetch, min(2.0**fetch.retries, BACKOFF_MAX_S))

    def _pump(self) -> None:
        fetching = 0
        for job in list(self._jobs.values()):
            if job.fetch is None:
                self._guarded(job, partial(self._open, job))
            fetching += job.fetch is not None
            if fetching == OPEN_MAX:
                break
        self._ask()

    def _open(self, job: Job) -> None:
        while job.fetch is None and job.spec.sha256 in self._jobs:
            level = job.next_level(self._blobs)
            if level is None:
                self._finish(job)
            elif level.sha256 in self._fetches:
                return
            else:
                self._begin(job, level)

    def _begin(self, job: Job, level: Level) -> None:
        try:
            fetch = self._fetches[level.sha256] = job.open(level, self._blobs)
        except DigestMismatchError:
            return  # the level above was damaged and is gone: it is next
        except BadInputError as error:
            self._fail(job, FailureReason.DIGEST_MISMATCH, str(error))
            return
        self._step(fetch)

    def _finish(self, job: Job) -> None:
        del self._jobs[job.spec.sha256]
        self._events.append(Completed(job.spec.sha256))
        for level in job.levels[1:]:
            with contextlib.suppress(EnvironmentFaultError):
                self._blobs.remove(level.sha256)

    def _ask(self) -> None:
        grant, asked, now_s = self._flow.grant(), list[ChunkKey](), self._clock()
        for fetch in self._fetches.values():
            if grant == 0:
                break
            if fetch.reuse or now_s < fetch.paused_until_s:
                continue
            if indexes := fetch.take(grant, self._flow.in_flight):
                grant -= len(indexes)
                asked += [(fetch.level.sha256, index) for index in indexes]
                self._send_want(fetch.level.sha256, indexes)
        if asked:
            self._flow.asked(asked, now_s)

    def _send_want(self, sha256: str, indexes: list[int]) -> None:
        self._request_id = (self._request_id + 1) & 0xFFFFFFFF
        self._send(Want(sha256, self._request_id, len(indexes), ranges_of(indexes), merged=False))

    def _give_back(self, lost: Iterable[ChunkKey]) -> None:
        for sha256, index in lost:
            if fetch := self._fetches.get(sha256):
                self.counters.asked_again += 1
                fetch.give_back(index)

    def _guarded(self, job: Job, action: Callable[[], None]) -> None:
        try:
            action()
        except StorageFullError as error:
            if job.fetch:
                with contextlib.suppress(EnvironmentFaultError):
                    job.fetch.part.discard()
            self._fail(job, FailureReason.STORAGE_FULL, str(error))
        except EnvironmentFaultError as error:
            self._fail(job, FailureReason.STORAGE_FAILED, str(error))

    def _fail(self, job: Job, reason: FailureReason, detail: str) -> None:
        self._jobs.pop(job.spec.sha256, None)
        self._put_down(job)
        self._events.append(Failed(job.spec.sha256, reason, detail))

    def _put_down(self, job: Job) -> None:
        if fetch := job.fetch:
            job.fetch = None
            self._flow.forget(fetch.level.sha256)
            self._corruption.forget(fetch.level.sha256)
            self._fetches.pop(fetch.level.sha256, None)
            with contextlib.suppress(EnvironmentFaultError):
                fetch.part.close()


def _due(fetch: Fetch, now_s: float) -> float | None:
    if fetch.reuse or not fetch.part.settle(0):
        return now_s
    due = [] if fetch.dirty_since_s is None else [fetch.dirty_since_s + SYNC_AFTER_S]
    if fetch.paused_until_s > now_s:
        due.append(fetch.paused_until_s)
    return min(due, default=None)
