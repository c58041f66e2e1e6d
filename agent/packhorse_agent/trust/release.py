"""Where bundles lie in TUF's name space, and what release keys sign beside their targets.

A model's bundles are targets of its own role, `model-NAME`, at
``bundles/MODEL/VERSION/PROFILE/RECIPE/manifest.json``; that role's metadata may state a minimum version.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuf.api.metadata import Targets

MINIMUM_VERSION_FIELD = "packhorse_minimum_version"
"""In a model role's signed part: a release version."""

ISSUED_AT_FIELD = "packhorse_issued_at"
"""In root and targets, signed offline: when it was signed, as TUF writes dates."""

NO_MINIMUM = "0"

_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}")
_MANIFEST_PATH = re.compile(r"bundles/([^/]+)/([^/]+)/([^/]+)/([^/]+)/manifest\.json")


@dataclass(frozen=True)
class BundlePath:
    """The parts of a manifest's TUF path. Law: `parse_bundle_path(str(p)) == p`."""

    model: str
    version: str
    profile: str
    recipe: str

    def __str__(self) -> str:
        return f"{self.folder}/manifest.json"

    @property
    def folder(self) -> str:
        """The TUF path under which all that belongs to the bundle lies."""
        return f"bundles/{self.model}/{self.version}/{self.profile}/{self.recipe}"


def parse_bundle_path(path: str) -> BundlePath | None:
    """Read a manifest's TUF path; None when it is another target."""
    match = _MANIFEST_PATH.fullmatch(path)
    return BundlePath(*match.groups()) if match else None


def model_role(model: str) -> str:
    """The TUF role that answers for a model."""
    return f"model-{model}"


def model_role_file(path: str) -> str | None:
    """The metadata file of the role that answers for a manifest's path."""
    bundle = parse_bundle_path(path)
    return f"{model_role(bundle.model)}.json" if bundle else None


def minimum_version(role: Targets | None) -> str:
    """The oldest version that a model's role allows; "0" when it states none that can be read."""
    stated = role.unrecognized_fields.get(MINIMUM_VERSION_FIELD, NO_MINIMUM) if role else NO_MINIMUM
    return stated if isinstance(stated, str) and _VERSION.fullmatch(stated) else NO_MINIMUM
