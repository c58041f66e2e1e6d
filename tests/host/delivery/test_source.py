"""Frames of a source's chunks: what is deflated, and how hard that is tried."""

from __future__ import annotations

import pytest

from packhorse_agent.contract import chunks
from packhorse_agent.contract.chunks import Chunk, decode_frame
from packhorse_agent.contract.limits import CHUNK_SIZE_BYTES
from packhorse_host.delivery.source import UNTRIED_MAX_CHUNKS, FrameReader
from tests.fakes.blobs import MemorySource, SampleBlob, make_blob, random_blob

DULL = bytes(range(64)) * (CHUNK_SIZE_BYTES // 64)
NOISE = random_blob(100, last_bytes=CHUNK_SIZE_BYTES)


def _frames(blob: SampleBlob) -> list[bytes]:
    reader = FrameReader(MemorySource([blob]))
    frames = [reader.frame(blob.sha256, index) for index in range(blob.count)]
    assert [decode_frame(frame) for frame in frames] == [
        Chunk(blob.sha256, index, blob.chunk(index)) for index in range(blob.count)
    ]
    return frames


def _is_deflated(frame: bytes) -> bool:
    return len(frame) < CHUNK_SIZE_BYTES // 2


def test_every_chunk_of_a_blob_that_deflates_is_deflated() -> None:
    assert all(map(_is_deflated, _frames(make_blob(DULL * 50))))


def test_a_blob_that_does_not_deflate_is_tried_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    looks_compressible = chunks._looks_compressible

    def counted(raw: bytes) -> bool:
        tried.append(len(raw))
        return looks_compressible(raw)

    monkeypatch.setattr(chunks, "_looks_compressible", counted)
    assert not any(map(_is_deflated, _frames(NOISE)))
    assert 1 <= len(tried) <= 10


@pytest.mark.parametrize("noisy", [1, 2, 17, 50, 100])
def test_what_deflates_after_noise_is_found_soon_and_then_all_of_it(noisy: int) -> None:
    frames = _frames(make_blob(NOISE.data[: noisy * CHUNK_SIZE_BYTES] + DULL * 50))
    assert not any(map(_is_deflated, frames[:noisy]))
    assert all(map(_is_deflated, frames[noisy + UNTRIED_MAX_CHUNKS :]))


def test_one_blob_s_noise_says_nothing_about_another() -> None:
    dull = make_blob(DULL * 5)
    reader = FrameReader(MemorySource([NOISE, dull]))
    for index in range(dull.count):
        assert not _is_deflated(reader.frame(NOISE.sha256, index))
        assert _is_deflated(reader.frame(dull.sha256, index))
