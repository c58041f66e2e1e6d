"""Rollouts, tags, refreshing, and the trust set."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse_agent.contract.base import sha256_hex
from packhorse_agent.contract.chunks import Chunk, decode_frame, digest_at
from packhorse_agent.contract.limits import TRUST_SET_MAX_BYTES
from packhorse_agent.contract.rollout import Assignments, RolloutsDocument
from packhorse_agent.contract.trustset import decode_trust_set
from packhorse_agent.trust.keeper import TrustKeeper
from packhorse_agent.trust.ports import NeedsBlobs, TargetInfo
from packhorse_agent.trust.view import TrustedView
from packhorse_host.delivery.source import FrameReader
from packhorse_host.errors import BadInputError
from packhorse_host.repository import (
    TooLargeError,
)
from tests.fakes.disk import FastFiles
from tests.host.repository.bundles import make_bundle
from tests.host.repository.fleets import FLEET, SALT, Fleet, assignments, tree


def test_the_same_rollouts_again_sign_nothing(fleet: Fleet) -> None:
    document = RolloutsDocument(fleet=FLEET)
    fleet.repository.set_rollouts(document, assignments("pi-1", "pi-2"))
    before = tree(fleet.folder)
    fleet.repository.set_rollouts(document, assignments("pi-1", "pi-2"))
    assert tree(fleet.folder) == before
    assert fleet.repository.rollouts() == document


def test_a_shard_that_is_not_named_is_taken_away(fleet: Fleet, tmp_path: Path) -> None:
    document = RolloutsDocument(fleet=FLEET)
    fleet.repository.set_rollouts(document, assignments("pi-1"))
    fleet.repository.set_rollouts(document, {})
    assert fleet.view(tmp_path / "device").tags("pi-1") == frozenset()


def test_rollouts_of_another_fleet_are_refused(fleet: Fleet) -> None:
    with pytest.raises(BadInputError):
        fleet.repository.set_rollouts(RolloutsDocument(fleet="other"), {})


def test_assignments_that_no_device_could_take_are_refused(fleet: Fleet) -> None:
    tags = {f"{number:064x}": ("canary", "north") for number in range(16_000)}
    before = tree(fleet.folder)
    with pytest.raises(TooLargeError, match="assignments/3"):
        fleet.repository.set_rollouts(RolloutsDocument(fleet=FLEET), {3: Assignments(salt=SALT, tags=tags)})
    assert tree(fleet.folder) == before


def test_refresh_signs_only_what_is_due(fleet: Fleet, tmp_path: Path) -> None:
    assert not fleet.repository.refresh(fleet.clock())
    fleet.clock.advance(days=1, hours=1)
    assert fleet.repository.refresh(fleet.clock())
    assert not fleet.repository.refresh(fleet.clock())
    assert fleet.view(tmp_path / "device").version == 2


def test_a_fleet_that_is_refreshed_never_expires(fleet: Fleet, tmp_path: Path) -> None:
    for _ in range(20):
        fleet.clock.advance(hours=20)
        fleet.repository.refresh(fleet.clock())
        assert not fleet.view(tmp_path / "device").expired


def test_superseded_metadata_and_documents_are_removed(fleet: Fleet) -> None:
    def files() -> int:
        return len(tree(fleet.folder / "repository"))

    counts = []
    for number in range(12):
        fleet.repository.set_rollouts(RolloutsDocument(fleet=FLEET), assignments(f"pi-{number}"))
        counts.append(files())
    assert counts[-1] == counts[-2] == counts[-3]


def test_the_trust_set_holds_what_is_rolled_out_before_anything_else(fleet: Fleet, tmp_path: Path) -> None:
    """And stays within its bound however much is published; the rest is pulled by hash."""
    folders = [
        make_bundle(tmp_path / f"{model}-{version}", model=f"m{model}", version=f"1.{version}")
        for model in range(12)
        for version in range(3)
    ]
    refs = fleet.repository.publish(folders)
    many = {shard: Assignments(salt=SALT, tags=_many(shard)) for shard in range(16)}
    fleet.repository.set_rollouts(RolloutsDocument(fleet=FLEET), many)
    framed = fleet.repository.trust_set()
    assert len(framed) <= TRUST_SET_MAX_BYTES
    assert not all(f"targets/assignments/{shard:x}.json" in decode_trust_set(framed) for shard in range(16))
    view = fleet.view(tmp_path / "device")
    assert all(isinstance(view.resolve(ref.target), TargetInfo) for ref in refs)
    assert view.tags("pi-1") == frozenset()


def _many(shard: int) -> dict[str, tuple[str, ...]]:
    return {sha256_hex(f"{shard}/{number}".encode()): ("canary",) for number in range(150)}


def test_large_documents_and_roles_come_with_their_chunk_index(fleet: Fleet, tmp_path: Path) -> None:
    many = {number: Assignments(salt=SALT, tags=_many(number)) for number in range(3)}
    big = {f"{number:064x}": ("canary",) for number in range(1500)}
    fleet.repository.set_rollouts(
        RolloutsDocument(fleet=FLEET), {**many, 7: Assignments(salt=SALT, tags=big)}
    )
    view = fleet.view(tmp_path / "device")
    custom = view.documents["assignments/7.json"].custom
    assert custom is not None
    for level in custom["chunk_index"]:
        assert sha256_hex(fleet.blob(level) or b"") == level


def test_the_chunk_server_reads_what_devices_pull(fleet: Fleet, tmp_path: Path) -> None:
    """Chunks of a role of several chunks, put together by its signed index."""
    folders = [make_bundle(tmp_path / str(n), version=f"1.{n}") for n in range(400)]
    fleet.repository.publish(folders)
    files = decode_trust_set(fleet.repository.trust_set())
    keeper = TrustKeeper(tmp_path / "device", fleet.anchor, FLEET, FastFiles())
    small = {name: data for name, data in files.items() if "model" not in name}
    view = keeper.offer(small, lambda _sha256: None, fleet.clock())
    assert isinstance(view, TrustedView)
    needs = view.resolve("bundles/detector/1.7/raspberry-pi-5/static_wi8_ai8/manifest.json")
    assert isinstance(needs, NeedsBlobs)
    [blob] = needs.blobs
    reader = FrameReader(fleet.repository)
    index = pull(reader, blob.chunk_index[0])
    role = pull(reader, blob.sha256)
    assert len(role) == blob.size_bytes > 64 * 1024
    assert sha256_hex(role) == blob.sha256
    assert [digest_at(index, at) for at in range(2)] == [sha256_hex(role[:65536]), sha256_hex(role[65536:])]


def pull(reader: FrameReader, sha256: str) -> bytes:
    frames = [decode_frame(reader.frame(sha256, at)) for at in range(reader.chunks_in(sha256) or 0)]
    return b"".join(frame.raw for frame in frames if isinstance(frame, Chunk))
