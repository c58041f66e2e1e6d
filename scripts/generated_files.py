"""Files in the repository that are made from the code; `scripts/generate` writes them.

A test makes them anew and compares, so none of them can drift.
"""

from __future__ import annotations

import json
from pathlib import Path

from packhorse_agent.contract.profile import Profile
from packhorse_host.convert.page import conversions_page

REPOSITORY = Path(__file__).parent.parent


def profile_schema() -> str:
    """The JSON Schema of a profile, for editors and other programs."""
    schema = Profile.model_json_schema()
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Packhorse device profile"}
    return json.dumps({**head, **{key: schema[key] for key in schema if key != "title"}}, indent=2) + "\n"


def generated_files() -> dict[Path, str]:
    """Path → content of every generated file."""
    return {
        REPOSITORY / "firmware_profiles" / "profile.schema.json": profile_schema(),
        REPOSITORY / "docs" / "reference" / "conversions.md": conversions_page(),
    }


if __name__ == "__main__":
    for path, content in generated_files().items():
        path.write_text(content)
        print(path.relative_to(REPOSITORY))
