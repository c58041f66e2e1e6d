"""The trust set of a repository: what every device needs first, and of the rest what fits 128 KB."""

from __future__ import annotations

from collections.abc import Iterator

from packhorse_agent.contract.limits import TRUST_SET_MAX_BYTES, TRUST_SET_MAX_ENTRIES
from packhorse_agent.contract.rollout import ROLLOUTS_TARGET, RolloutsDocument
from packhorse_agent.contract.trustset import encode_trust_set
from packhorse_agent.trust.release import model_role
from packhorse_host.repository.content import ContentFolder
from packhorse_host.repository.metadata import TIMESTAMP_FILE, MetadataFolder, State

ROOT_CHAIN_MAX_BYTES = 48 * 1024
"""About twenty roots of three keys; a device whose root is older than the oldest of them is enrolled anew."""

ROOT_CHAIN_MAX_FILES = 24

_FRAME_HEAD_BYTES = 4
_ENTRY_HEAD_BYTES = 5


def build_trust_set(metadata: MetadataFolder, content: ContentFolder) -> bytes:
    """Read and frame the current state. What does not fit is left to be pulled by hash.

    Raises:
        DamagedRepositoryError: metadata is missing or cannot be read.
    """
    state = metadata.load()
    files = _root_chain(metadata, state.root.version)
    files[TIMESTAMP_FILE] = state.timestamp_bytes
    used = _FRAME_HEAD_BYTES + sum(_framed_bytes(name, data) for name, data in files.items())
    for name, data in _by_priority(metadata, content, state):
        size = _framed_bytes(name, data)
        if used + size <= TRUST_SET_MAX_BYTES and len(files) < TRUST_SET_MAX_ENTRIES:
            files[name] = data
            used += size
    return encode_trust_set(files)


def _root_chain(metadata: MetadataFolder, current: int) -> dict[str, bytes]:
    chain: dict[str, bytes] = {}
    for version in reversed(metadata.root_chain(current)[-ROOT_CHAIN_MAX_FILES:]):
        data = metadata.read(f"{version}.root.json")
        if chain and sum(map(len, chain.values())) + len(data) > ROOT_CHAIN_MAX_BYTES:
            break
        chain[f"{version}.root.json"] = data
    return chain


def _by_priority(
    metadata: MetadataFolder, content: ContentFolder, state: State
) -> Iterator[tuple[str, bytes]]:
    snapshot = f"{state.snapshot.version}.snapshot.json"
    yield snapshot, metadata.read(snapshot)
    documents = dict(_documents(content, state))
    rollouts = documents.pop(f"targets/{ROLLOUTS_TARGET}")
    for role in ("rollouts", "targets"):
        yield _role_file(state, role), metadata.read(_role_file(state, role))
    yield f"targets/{ROLLOUTS_TARGET}", rollouts
    for role in _model_roles(state, RolloutsDocument.model_validate_json(rollouts)):
        yield _role_file(state, role), metadata.read(_role_file(state, role))
    yield from sorted(documents.items(), key=lambda item: len(item[1]))


def _documents(content: ContentFolder, state: State) -> Iterator[tuple[str, bytes]]:
    for path, target in state.roles["rollouts"].targets.items():
        stream = content.open(target.hashes["sha256"])
        if stream is not None:
            with stream:
                yield f"targets/{path}", stream.read()


def _model_roles(state: State, rollouts: RolloutsDocument) -> list[str]:
    """Roles of the models, those that are rolled out first."""
    named = [*(part.model for part in rollouts.rollouts), *(part.model for part in rollouts.baselines)]
    wanted = {model_role(model) for model in named}
    models = [role for role in state.roles if role not in ("targets", "rollouts")]
    return sorted(models, key=lambda role: (role not in wanted, role))


def _role_file(state: State, role: str) -> str:
    return f"{state.roles[role].version}.{role}.json"


def _framed_bytes(name: str, data: bytes) -> int:
    return _ENTRY_HEAD_BYTES + len(name) + len(data)
