"""The two kinds of document and the constrained strings that they share."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest, lower-case hexadecimal."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"""A name that is safe in a topic, a path and a URL (device, model, profile, slot, tag, fleet)."""

Version = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9}){0,3}$")]
"""A release version: one to four numbers with dots; compared by number (`version_key`)."""

FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$")]
"""One path component: no separator, no leading dot."""


class WireDocument(BaseModel):
    """A document that programs exchange: unknown fields are ignored, so that an older reader survives."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class HumanDocument(BaseModel):
    """A document that people write: an unknown key is an error, since it is most likely a typing slip."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def canonical_json(document: BaseModel) -> bytes:
    """Serialize `document` so that equal documents give equal bytes.

    Keys sorted, no spaces, UTF-8, no NaN. Law: `type(d).model_validate_json(canonical_json(d)) == d`.
    """
    content = document.model_dump(mode="json")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sha256_hex(data: bytes) -> str:
    """The SHA-256 of `data` as lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def version_key(version: str) -> tuple[int, ...]:
    """Order release and runtime versions by number: `1.10` after `1.9`, `1.2` equal to `1.2.0`.

    Anything after the leading dotted number (`1.20.0rc1`, `2.13.0+cpu`) is ignored. Text without a
    leading number sorts first, as the empty tuple.
    """
    numbers: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
