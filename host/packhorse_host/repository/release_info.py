"""What has been published, as programs ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from packhorse_agent.contract.base import version_key
from packhorse_agent.contract.rollout import BundleRef
from packhorse_agent.trust.release import parse_bundle_path
from packhorse_host.repository.metadata import State


@dataclass(frozen=True)
class ReleaseInfo:
    """One published bundle."""

    model: str
    version: str
    profile: str
    recipe: str
    ref: BundleRef


def published_releases(state: State) -> list[ReleaseInfo]:
    """All published bundles, by model, version, profile, recipe."""
    found = [info for role in state.roles if role.startswith("model-") for info in _of_role(state, role)]
    return sorted(found, key=lambda info: (info.model, version_key(info.version), info.profile, info.recipe))


def _of_role(state: State, role: str) -> Iterator[ReleaseInfo]:
    for path, target in state.roles[role].targets.items():
        bundle = parse_bundle_path(path)
        if bundle is not None:
            ref = BundleRef(target=path, sha256=target.hashes["sha256"], size_bytes=target.length)
            yield ReleaseInfo(bundle.model, bundle.version, bundle.profile, bundle.recipe, ref)
