"""Blobs that are damaged on the host's disk: noticed when they are asked for again, said, and mended."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from packhorse_agent.contract.chunks import (
    Chunk,
    ChunkRange,
    ReplyKind,
    Want,
    decode_frame,
    encode_want,
)
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_agent.contract.manifest import Manifest
from packhorse_agent.contract.rollout import BundleRef
from packhorse_agent.contract.states import FailureReason
from packhorse_agent.contract.topics import WantTopic, blob_shard
from packhorse_agent.store.blobs import BlobStore
from packhorse_agent.transfer import BlobSpec, Completed, Downloader, DownloadEvent, Failed
from packhorse_host.delivery import ChunkServer
from packhorse_host.delivery.damage import ASKED_MAX_BYTES, AskedChunks
from packhorse_host.delivery.signed import SignedBlob, SignedBlobs
from packhorse_host.repository.release_info import ReleaseInfo
from tests.fakes.blobs import MemorySource
from tests.fakes.delivery import FLEET, ManualClock
from tests.fakes.memory_files import MemoryFiles
from tests.host.repository.bundles import make_bundle
from tests.host.repository.fleets import Fleet


class Rig:
    """A published bundle of one large model, and a server on the real files."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet(folder / "fleet")
        self.bundle = make_bundle(
            folder / "bundle", content=random.Random(1).randbytes(10 * CHUNK_SIZE_BYTES + 7)
        )
        [self.ref] = self.fleet.repository.publish([self.bundle])
        manifest = Manifest.model_validate_json(self.fleet.blob(self.ref.sha256) or b"")
        self.artifact = max(manifest.artifacts, key=lambda artifact: artifact.size_bytes)
        self.blobs = self.fleet.folder / "repository" / "blobs"
        self.clock = ManualClock()
        self.sent: list[tuple[str, bytes]] = []
        self.request_id = 0
        self.server = self.start()

    def start(self) -> ChunkServer:
        signed = SignedBlobs(self.fleet.repository, self.blobs)
        return ChunkServer(
            self.fleet.repository,
            lambda topic, frame: self.sent.append((topic, frame)),
            FLEET,
            self.clock,
            find_signed=signed.find,
        )

    @property
    def file(self) -> Path:
        return self.blobs / self.artifact.sha256

    @property
    def spec(self) -> BlobSpec:
        return BlobSpec(self.artifact.sha256, self.artifact.size_bytes, self.artifact.chunk_index)

    def flip(self, offset: int, file: Path | None = None) -> None:
        """Damage one byte in place: neither the size nor the name tells."""
        with (file or self.file).open("r+b") as stream:
            stream.seek(offset)
            byte = stream.read(1)
            stream.seek(offset)
            stream.write(bytes([byte[0] ^ 1]))

    def ask(
        self, start: int, count: int, device: str = "a", sha256: str | None = None
    ) -> list[int | ReplyKind]:
        """Ask once, and return the numbers of the chunks that come, or the reply."""
        self.request_id += 1
        self.sent.clear()
        blob = sha256 or self.artifact.sha256
        want = Want(blob, self.request_id, 64, (ChunkRange(start, count),), merged=False)
        self.server.on_want(WantTopic(FLEET, blob_shard(blob), device), encode_want(want))
        self.server.tick()
        frames = [decode_frame(frame) for _, frame in self.sent]
        return [frame.index if isinstance(frame, Chunk) else frame.kind for frame in frames]

    def download(self) -> DownloadEvent:
        """What becomes of the artifact on a new device."""
        wants: list[Want] = []
        store = BlobStore(Path("/state"), MemoryFiles(Path("/state")), headroom_bytes=0)
        downloader = Downloader(store, wants.append, self.clock, random.Random(1))
        downloader.want(self.spec)
        for _ in range(1000):
            if events := downloader.poll():
                return events[0]
            self._carry(wants, downloader)
        raise AssertionError("the download does not end")

    def _carry(self, wants: list[Want], downloader: Downloader) -> None:
        asked, wants[:] = list(wants), []
        self.sent.clear()
        for want in asked:
            topic = WantTopic(FLEET, blob_shard(want.blob_sha256), "dev")
            self.server.on_want(topic, encode_want(want))
        self.server.tick()
        for _, frame in self.sent:
            downloader.on_frame(frame)
        if not asked:
            due_s = downloader.next_due()
            assert due_s is not None
            self.clock.now_s = max(self.clock.now_s, due_s)
            downloader.tick()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.server.close()


def test_a_damaged_chunk_that_is_asked_for_again_is_refused(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.flip(3 * CHUNK_SIZE_BYTES)
    assert rig.ask(0, 5) == [0, 1, 2, 3, 4]
    assert rig.ask(3, 1) == [ReplyKind.NOT_FOUND]
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert f"{rig.file} is damaged: chunk 3 is not what was signed" in record.message
    assert "Publish the same bundle again" in record.message
    assert rig.server.counters.damaged == 1


def test_once_known_to_be_damaged_no_device_waits_for_it(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.flip(3 * CHUNK_SIZE_BYTES)
    rig.ask(3, 1)
    rig.ask(3, 1)
    assert rig.ask(0, 2, device="b") == [ReplyKind.NOT_FOUND]
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


def test_whole_chunks_are_sent_again_as_often_as_they_are_asked_for(rig: Rig) -> None:
    for _ in range(3):
        assert rig.ask(0, 11) == list(range(11))
    assert rig.server.counters.damaged == 0


def test_what_another_device_got_is_not_asked_for_again(rig: Rig) -> None:
    """The check costs reading: it is for those chunks alone that did not please."""
    rig.flip(0)
    assert rig.ask(0, 1, device="a") == [0]
    assert rig.ask(0, 1, device="b") == [0]


@pytest.mark.parametrize("size_bytes", [0, 1, 3 * CHUNK_SIZE_BYTES, 10 * CHUNK_SIZE_BYTES])
def test_a_file_that_is_cut_short_is_noticed(rig: Rig, size_bytes: int) -> None:
    with rig.file.open("r+b") as stream:
        stream.truncate(size_bytes)
    outcome = rig.download()
    assert isinstance(outcome, Failed) and outcome.reason is FailureReason.DOWNLOAD_NOT_FOUND


@pytest.mark.parametrize("index", [0, 5, 10])
def test_a_device_fails_at_once(rig: Rig, index: int) -> None:
    rig.flip(index * CHUNK_SIZE_BYTES)
    start_s = rig.clock.now_s
    outcome = rig.download()
    assert isinstance(outcome, Failed) and outcome.reason is FailureReason.DOWNLOAD_NOT_FOUND
    assert "damaged" in outcome.detail
    assert rig.clock.now_s - start_s < 10


def test_a_damaged_index_is_noticed_too(rig: Rig) -> None:
    rig.flip(40, rig.blobs / rig.artifact.chunk_index[0])
    outcome = rig.download()
    assert isinstance(outcome, Failed) and outcome.reason is FailureReason.DOWNLOAD_NOT_FOUND


def test_a_damaged_manifest_is_noticed_too(rig: Rig) -> None:
    rig.flip(40, rig.blobs / rig.ref.sha256)
    assert rig.ask(0, 1, sha256=rig.ref.sha256) == [0]
    assert rig.ask(0, 1, sha256=rig.ref.sha256) == [ReplyKind.NOT_FOUND]


@pytest.mark.parametrize("missing", [False, True])
def test_publishing_again_mends_it(rig: Rig, missing: bool) -> None:
    """With no restart of the controller, and no word of the old file."""
    rig.flip(3 * CHUNK_SIZE_BYTES)
    rig.flip(33, rig.blobs / rig.artifact.chunk_index[0])
    assert isinstance(rig.download(), Failed)
    if missing:
        rig.file.unlink()
    assert rig.fleet.repository.publish([rig.bundle]) == [rig.ref]
    assert rig.download() == Completed(rig.artifact.sha256)


def test_a_chunk_that_went_out_damaged_is_read_anew_after_the_file_was_restored(rig: Rig) -> None:
    good = rig.file.read_bytes()
    rig.flip(3 * CHUNK_SIZE_BYTES)
    rig.ask(3, 1)
    scratch = rig.file.with_suffix(".new")
    scratch.write_bytes(good)
    scratch.rename(rig.file)
    assert rig.ask(3, 1) == [3]
    frame = decode_frame(rig.sent[0][1])
    assert isinstance(frame, Chunk) and frame.raw == good[3 * CHUNK_SIZE_BYTES :][:CHUNK_SIZE_BYTES]


def test_what_is_published_later_is_checked_too(rig: Rig, tmp_path: Path) -> None:
    rig.ask(0, 1)
    rig.ask(0, 1)
    later = make_bundle(tmp_path / "later", version="2.0", content=random.Random(2).randbytes(200_000))
    [ref] = rig.fleet.repository.publish([later])
    manifest = Manifest.model_validate_json(rig.fleet.blob(ref.sha256) or b"")
    sha256 = max(manifest.artifacts, key=lambda artifact: artifact.size_bytes).sha256
    rig.flip(0, rig.blobs / sha256)
    assert rig.ask(0, 1, sha256=sha256) == [0]
    assert rig.ask(0, 1, sha256=sha256) == [ReplyKind.NOT_FOUND]


def test_a_manifest_of_a_version_that_is_not_known_stops_nothing() -> None:
    text = b'{"format": 99}'
    ref = BundleRef(target="bundles/x", sha256=hashlib.sha256(text).hexdigest(), size_bytes=len(text))
    source = MemorySource([])
    source.content[ref.sha256] = text

    class Published:
        def version(self) -> int:
            return 1

        def releases(self) -> list[ReleaseInfo]:
            return [ReleaseInfo("x", "1.0", "p", "fp32", ref)]

        def open_blob(self, sha256: str) -> BinaryIO | None:
            return source.open_blob(sha256)

    signed = SignedBlobs(Published(), Path("/blobs"))
    assert signed.find("0" * 64) is None
    assert signed.find(ref.sha256) == SignedBlob(ref.sha256, len(text), (), Path("/blobs") / ref.sha256)


def test_metadata_that_no_manifest_names_is_sent_as_before(rig: Rig) -> None:
    blob = next(iter(rig.fleet.repository._pulled_by_hash()))
    for _ in range(2):
        assert rig.ask(0, 1, sha256=blob) == [0]


def test_a_request_for_nothing_that_exists_is_still_malformed(rig: Rig) -> None:
    assert rig.ask(500, 1) == []
    assert rig.server.counters.malformed == 1


def test_memory_of_what_was_asked_is_bounded() -> None:
    asked, chunks = AskedChunks(), 1024 * 1024
    devices = [f"dev-{number}" for number in range(ASKED_MAX_BYTES // chunks + 3)]
    for device in devices:
        asked.note(device, "0" * 64, [5], chunks)
    assert asked.again(devices[0], "0" * 64, [5]) == []
    assert asked.again(devices[-1], "0" * 64, [4, 5, 6]) == [5]
    assert asked._size_bytes <= ASKED_MAX_BYTES
